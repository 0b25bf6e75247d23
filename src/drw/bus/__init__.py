"""The supporting cluster of the event bus."""
