"""Stores passages with their vectors and words, and finds the nearest."""
