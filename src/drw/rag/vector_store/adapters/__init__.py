"""One module for each database that can keep the passages."""
