"""Retrieval service: search and answers with citations."""
