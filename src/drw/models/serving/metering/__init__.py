"""Metering of requests: estimates, reservation and settlement."""
