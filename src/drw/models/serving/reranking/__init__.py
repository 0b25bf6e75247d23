"""Reranking: scores documents for a query."""
