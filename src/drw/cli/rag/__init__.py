"""Commands for documents: ingest, ask, search, files."""
