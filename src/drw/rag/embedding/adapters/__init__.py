"""Encoders, one library for each module."""
