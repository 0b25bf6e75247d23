"""Keeps failed steps, and puts them back to work."""
