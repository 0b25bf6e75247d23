"""Adapters of discovery."""
