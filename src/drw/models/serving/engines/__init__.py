"""Calls to engines: OpenAI client, tokenization of prompts, token counting, upstream errors."""
