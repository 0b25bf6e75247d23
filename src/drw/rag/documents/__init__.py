"""Documents service: stores, parses, chunks and indexes files."""
