"""CSV and TSV as a sheet."""

from __future__ import annotations

import csv
import io
import re

from drw.rag.documents.parsing.sheets.grid import MAX_CELLS, Cell, Sheet
from drw.rag.documents.ports import ParseFailed

NUMBER = re.compile(r"[-+(]?\s*[$€£¥]?\s*[-+]?\d[\d,. ']*(?:[eE][-+]?\d+)?\s*%?\)?")
DELIMITERS = ",;\t|"
SAMPLE = 8 << 10
"""Characters for detecting the delimiter, which takes quadratic time."""
MAX_DIGITS = 64


def sheet(text: str, kind: str) -> Sheet:
    """Return the rows of a file of kind `csv` or `tsv`.

    Raises:
        ParseFailed: it has too many cells, or one of more than a million characters.
    """
    sheet = Sheet("")
    csv.field_size_limit(1_000_000)
    cells = 0
    try:
        for number, row in enumerate(csv.reader(io.StringIO(text), delimiter=_delimiter(text, kind)), 1):
            shown = {column: _cell(item) for column, item in enumerate(row, 1) if item.strip()}
            if shown:
                sheet.rows[number] = shown
            if (cells := cells + len(row)) > MAX_CELLS:
                raise ParseFailed(f"this file has more than {MAX_CELLS:,} cells")
    except csv.Error as error:
        raise ParseFailed(f"this {kind.upper()} file cannot be read: {error}") from error
    return sheet


def _delimiter(text: str, kind: str) -> str:
    if kind == "tsv":
        return "\t"
    try:
        return csv.Sniffer().sniff(text[:SAMPLE].rpartition("\n")[0] or text[:SAMPLE], DELIMITERS).delimiter
    except csv.Error:
        return ","


def _cell(text: str) -> Cell:
    text = text.strip()
    is_number = len(text) <= MAX_DIGITS and NUMBER.fullmatch(text)
    return Cell(text, 0.0 if is_number else None)
