"""Chunking: splits parsed pages into chunks for retrieval."""
