"""What can carry runs through a crash."""
