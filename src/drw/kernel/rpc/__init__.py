"""gRPC between processes, the context of requests, and conversion to JSON; HTTP is in `http`."""
