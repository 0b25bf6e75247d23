"""State: streams run events to watchers."""
