"""Calls to engines: the OpenAI client, prompts, token counting, upstream errors."""
