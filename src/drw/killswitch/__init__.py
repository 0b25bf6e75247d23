"""Kill switch: watch the active kills and apply them to work in progress."""
