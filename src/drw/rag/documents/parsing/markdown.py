"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable


def table(rows: list[list[str]]) -> str:
    """Return rows of cells as a table, with the first row as its header; empty if no cell has text."""
    if not any(any(cell.strip() for cell in row) for row in rows):
        return ""
    width = max(map(len, rows))
    lines = [table_row(map(escape_cell, row + [""] * (width - len(row)))) for row in rows]
    return "\n".join([lines[0], delimiter_row(width), *lines[1:]])


def table_row(cells: Iterable[str]) -> str:
    """Return a row of escaped cells."""
    return f"| {' | '.join(cells)} |"


def delimiter_row(columns: int) -> str:
    """Return the row between the header and the body of a table."""
    return table_row(["---"] * columns)


def escape_cell(text: str) -> str:
    """Return the text of a cell in one line, with `|` escaped."""
    return " ".join(text.split()).replace("|", "\\|")
