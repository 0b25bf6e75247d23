"""Stores audit records in an append-only Merkle tree and proves that they are unchanged."""
