"""Keeps the audit trail, and proves that nobody changed it."""
