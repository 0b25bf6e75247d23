"""Storage: files, their bytes, vector store files, and the deletion outbox."""
