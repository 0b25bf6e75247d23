"""Registered versions of models: files, registration and storage."""
