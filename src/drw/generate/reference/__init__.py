"""Generators of docs/reference and of the sources of the documentation site."""
