"""Documents service: uploads, parses, chunks and indexes files."""
