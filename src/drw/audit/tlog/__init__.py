"""The Merkle log as its standards describe it, without any I/O: hashes (RFC 6962), tiles and notes (C2SP)."""
