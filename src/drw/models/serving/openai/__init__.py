"""OpenAI's API: validation of requests, parsing of chunks, conversion of responses."""
