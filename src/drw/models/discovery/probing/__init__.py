"""Probes of the replicas of models."""
