"""Organisations and desks."""
