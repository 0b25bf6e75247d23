"""Storage of files, vector store files and their content."""
