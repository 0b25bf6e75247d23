"""Parsers of document formats, run in bounded worker processes."""
