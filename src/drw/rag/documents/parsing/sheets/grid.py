"""Grid of a sheet: cells by row and column, and references to cells and ranges."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

MAX_CELLS = 2_000_000
"""Of one file: more do not fit into the memory of a parser process."""
REFERENCE = re.compile(r"\$?([A-Z]{1,3})\$?(\d{1,7})")
UNQUOTED_NAME = re.compile(r"[^\W\d]\w*")


class Cell(NamedTuple):
    """The displayed text of a cell, and its value if it is a number."""

    text: str
    value: float | None = None
    is_date: bool = False


class Range(NamedTuple):
    """A rectangle of cells; rows and columns count from 1, and the bounds are inclusive."""

    top: int
    left: int
    bottom: int
    right: int

    def __str__(self) -> str:
        first = f"{column_letters(self.left)}{self.top}"
        last = f"{column_letters(self.right)}{self.bottom}"
        return first if first == last else f"{first}:{last}"


Rows = dict[int, dict[int, Cell]]


@dataclass(slots=True)
class Sheet:
    """One sheet, with its visible cells that are not empty."""

    name: str
    rows: Rows = field(default_factory=dict)
    merged: list[Range] = field(default_factory=list)
    extra_texts: list[str] = field(default_factory=list)
    """The texts of its charts, text boxes and comments."""
    hidden_rows: set[int] = field(default_factory=set)
    """Removed rows: the rows above and below them belong to one table."""

    def reference(self, cells: Range) -> str:
        """Return the reference to a range as in a formula, such as `'Q1 2025'!A3:D12`."""
        if not self.name:
            return str(cells)
        name = self.name if UNQUOTED_NAME.fullmatch(self.name) else "'" + self.name.replace("'", "''") + "'"
        return f"{name}!{cells}"


def column_letters(column: int) -> str:
    """Return the letters of a column: 1 is A, 27 is AA."""
    letters = ""
    while column > 0:
        column, remainder = divmod(column - 1, 26)
        letters = chr(65 + remainder) + letters
    return letters


def parse_cell(reference: str) -> tuple[int, int] | None:
    """Return the row and column of a cell reference such as `B12`; None if the text is not one."""
    match = REFERENCE.fullmatch(reference)
    if not match:
        return None
    column = 0
    for letter in match[1]:
        column = column * 26 + ord(letter) - 64
    return int(match[2]), column


def parse_range(reference: str) -> Range | None:
    """Return the range of a reference such as `A1:C4` or `B12`; None if the text is not one."""
    first, _, last = reference.partition(":")
    start = parse_cell(first)
    end = parse_cell(last or first)
    if start is None or end is None:
        return None
    return Range(min(start[0], end[0]), min(start[1], end[1]), max(start[0], end[0]), max(start[1], end[1]))
