"""The rag cluster."""
