"""Adapters of the event bus, one broker each. `connection.connect` imports the one that the settings select."""
