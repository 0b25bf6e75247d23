"""Stores upstreams: addresses, balancing, deadlines, circuits. Envoy balances; see also serving/routing."""
