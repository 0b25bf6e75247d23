"""Supervision of child processes: start, liveness, output, stop."""
