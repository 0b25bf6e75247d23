"""Embedding service: turns texts into vectors."""
