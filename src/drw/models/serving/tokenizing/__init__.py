"""Tokens of prompts: the endpoints `/v1/tokenize` and `/v1/detokenize`."""
