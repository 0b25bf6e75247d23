"""Stores upstreams: addresses, balancing, deadlines and circuit settings."""
