"""Conformance suites that can be pointed at any server."""
