"""Sample documents of a fictitious trading firm, for `drw ingest`."""

from pathlib import Path

DOCUMENTS = Path(__file__).parent / "documents"
