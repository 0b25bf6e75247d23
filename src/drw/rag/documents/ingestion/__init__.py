"""Ingestion: the job queue and the indexing of documents."""
