"""Puts together what the data plane does with a request."""
