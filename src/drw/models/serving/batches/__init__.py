"""Batches: requests from a file, run in the background within 24 hours."""
