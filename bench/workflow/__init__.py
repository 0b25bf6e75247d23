"""Benchmarks of workflows: engines side by side, failover, dead letters, and lists of runs."""
