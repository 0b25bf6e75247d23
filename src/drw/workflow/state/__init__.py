"""Shows the state of every run as it changes."""
