"""`drw generate`: every file that is made from another."""
