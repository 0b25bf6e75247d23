"""Redrives: new runs for dead letters, with a probe of each group and at a rate."""
