"""Ingestion: job queue, indexing workers, attribute updates and deletions."""
