"""Triggers: events of the event bus that start runs."""
