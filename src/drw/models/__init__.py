"""The models cluster."""
