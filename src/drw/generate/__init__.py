"""`drw generate`: generators of all files that are derived from others."""
