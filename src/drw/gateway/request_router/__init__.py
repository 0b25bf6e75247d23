"""Builds the desired state of the data planes: routes, limits, credentials and kills."""
