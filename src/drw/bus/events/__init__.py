"""Events: relays events to the event bus, and streams them to operators."""
