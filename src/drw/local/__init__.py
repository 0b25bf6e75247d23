"""The platform on one machine: its parts, and what keeps them running."""
