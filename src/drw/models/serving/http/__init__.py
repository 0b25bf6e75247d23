"""HTTP endpoints and responses of the serving API."""
