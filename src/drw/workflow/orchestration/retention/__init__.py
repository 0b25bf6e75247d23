"""Retention: deletes ended runs after their time, unless a legal hold covers them."""
