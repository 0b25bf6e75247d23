"""Parsers of model formats that read headers only, with limits."""
