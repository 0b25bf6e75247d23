"""Keeps the workflow templates and their versions."""
