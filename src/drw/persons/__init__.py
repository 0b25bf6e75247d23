"""Comparison of persons: the two-person rule of several services."""
