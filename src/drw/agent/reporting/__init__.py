"""Reports of the data plane: usage, metrics, access log, health."""
