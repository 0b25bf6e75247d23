"""Payloads: values of runs above 64 KiB, stored as blobs."""
