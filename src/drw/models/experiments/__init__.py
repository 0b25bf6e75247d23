"""Splits traffic between model versions and compares them."""
