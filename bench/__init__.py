"""Benchmarks of the platform beside other gateways, in one run: `make bench`."""
