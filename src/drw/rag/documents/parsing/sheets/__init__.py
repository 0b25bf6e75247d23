"""Spreadsheets: cells as a reader sees them, and sheets as pages of tables."""
