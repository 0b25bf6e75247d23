"""Service of the audit log: stores records in an append-only Merkle tree, and proves that they are unchanged."""
