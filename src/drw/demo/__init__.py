"""A few documents of an invented trading firm, to try the platform with: `drw ingest` takes the folder."""

from pathlib import Path

DOCUMENTS = Path(__file__).parent / "documents"
