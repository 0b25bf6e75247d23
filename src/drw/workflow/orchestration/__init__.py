"""Runs workflows to their end, whatever fails on the way."""
