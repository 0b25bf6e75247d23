"""Call records, metrics and content capture."""
