"""The workflow cluster."""
