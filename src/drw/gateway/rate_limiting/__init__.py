"""Keeps each caller's limits."""
