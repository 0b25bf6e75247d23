"""Egress rules: address parsing, the allow-list of upstream addresses and classes of IP addresses."""
