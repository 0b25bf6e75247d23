"""Replay: checks recorded runs against the present code, without any effect."""
