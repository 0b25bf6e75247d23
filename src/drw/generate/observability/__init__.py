"""Generators of the dashboards in deploy/observability."""
