"""RAG: document ingestion, embedding, vector store and retrieval."""
