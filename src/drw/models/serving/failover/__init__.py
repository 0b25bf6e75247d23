"""Failover across candidate models, with continuation of streams."""
