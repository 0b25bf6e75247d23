"""Adapters of the agent: Envoy's admin interface."""
