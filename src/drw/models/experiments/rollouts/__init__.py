"""Rollouts: replace the models of an alias by a candidate in steps, with automatic rollback."""
