"""Secrets that templates name: their source, and their redaction."""
