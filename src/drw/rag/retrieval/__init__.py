"""Finds the passages that answer a question, and words an answer with citations."""
