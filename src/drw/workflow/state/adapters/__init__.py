"""Stores for the live view."""
