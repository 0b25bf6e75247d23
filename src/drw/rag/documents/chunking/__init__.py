"""Chunking: splits parsed pages into passages for retrieval."""
