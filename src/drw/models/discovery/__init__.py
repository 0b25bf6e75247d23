"""Knows every model and where it is served."""
