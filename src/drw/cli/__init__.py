"""The command `drw`."""
