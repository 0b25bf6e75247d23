"""Compensation of runs that fail or are cancelled."""
