"""Office Open XML: packages, word processing documents, presentations, workbooks."""
