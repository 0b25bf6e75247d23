"""Reader of CSV and TSV files as one sheet."""

from __future__ import annotations

import csv
import io
import re

from drw.rag.documents.parsing.sheets.grid import MAX_CELLS, Cell, Sheet
from drw.rag.documents.ports import ParseFailed

NUMBER = re.compile(r"[-+(]?\s*[$€£¥]?\s*[-+]?\d[\d,. ']*(?:[eE][-+]?\d+)?\s*%?\)?")
DELIMITERS = ",;\t|"
SAMPLE_CHARACTERS = 8 << 10
"""The start of the text, from which the delimiter is detected: detection takes quadratic time."""
MAX_DIGITS = 64


def sheet(text: str, extension: str) -> Sheet:
    """Return the sheet of a CSV or TSV file.

    Raises:
        ParseFailed: the file has too many cells, or a cell of more than a million characters.
    """
    sheet = Sheet("")
    csv.field_size_limit(1_000_000)
    cells = 0
    try:
        for number, row in enumerate(csv.reader(io.StringIO(text), delimiter=_delimiter(text, extension)), 1):
            row_cells = {column: _cell(item) for column, item in enumerate(row, 1) if item.strip()}
            if row_cells:
                sheet.rows[number] = row_cells
            if (cells := cells + len(row)) > MAX_CELLS:
                raise ParseFailed(f"this file has more than {MAX_CELLS:,} cells")
    except csv.Error as error:
        raise ParseFailed(f"this {extension.upper()} file cannot be read: {error}") from error
    return sheet


def _delimiter(text: str, extension: str) -> str:
    if extension == "tsv":
        return "\t"
    try:
        sample = text[:SAMPLE_CHARACTERS]
        return csv.Sniffer().sniff(sample.rpartition("\n")[0] or sample, DELIMITERS).delimiter
    except csv.Error:
        return ","


def _cell(text: str) -> Cell:
    text = text.strip()
    is_number = len(text) <= MAX_DIGITS and NUMBER.fullmatch(text)
    return Cell(text, 0.0 if is_number else None)
