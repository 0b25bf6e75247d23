"""Checks of generated texts against the passages that they rest on."""
