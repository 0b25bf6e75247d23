"""Moderation: classifies texts by categories of harm."""
