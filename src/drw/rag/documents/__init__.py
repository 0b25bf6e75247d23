"""Turns documents into passages and indexes them."""
