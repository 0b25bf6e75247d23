"""Transparency log by its standards, without I/O: Merkle tree (RFC 6962), tiles and signed notes (C2SP)."""
