"""The parsers there are; each imports its technology, and nothing else does."""
