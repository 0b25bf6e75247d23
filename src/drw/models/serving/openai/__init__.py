"""OpenAI's requests, chunks and responses: validation and conversion."""
