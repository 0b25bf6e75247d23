"""Metering of requests: estimates, and the gate that reserves, meters and settles."""
