"""Engines: one file a technology."""
