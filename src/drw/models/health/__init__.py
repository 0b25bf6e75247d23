"""Watches every service, and says which are fit to serve."""
