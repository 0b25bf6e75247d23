"""Health of all services."""
