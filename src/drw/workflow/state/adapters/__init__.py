"""What the live view can be kept in."""
