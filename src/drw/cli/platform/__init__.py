"""Commands that run and configure a local platform."""
