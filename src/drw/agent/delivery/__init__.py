"""Delivery of configuration, credentials and deny lists to Envoy."""
