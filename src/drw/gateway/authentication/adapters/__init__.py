"""Adapters of the authentication service: HTTP."""
