"""Vector databases, one for each module."""
