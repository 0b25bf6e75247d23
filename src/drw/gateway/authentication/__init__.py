"""Authenticates callers and issues API keys."""
