"""Grid of a sheet: cells by row and column, and references to ranges."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

MAX_CELLS = 2_000_000
"""Of one file: more do not fit into the memory that a parser has."""
REFERENCE = re.compile(r"\$?([A-Z]{1,3})\$?(\d{1,7})")
PLAIN_NAME = re.compile(r"[^\W\d]\w*")


class Cell(NamedTuple):
    """What a cell shows, and its value where that is a number."""

    text: str
    value: float | None = None
    is_date: bool = False


class Range(NamedTuple):
    """A rectangle of cells; all four are included, and count from 1."""

    top: int
    left: int
    bottom: int
    right: int

    def __str__(self) -> str:
        first = f"{letters(self.left)}{self.top}"
        last = f"{letters(self.right)}{self.bottom}"
        return first if first == last else f"{first}:{last}"


Rows = dict[int, dict[int, Cell]]


@dataclass(slots=True)
class Sheet:
    """One sheet: only cells that show something, and that a reader sees."""

    name: str
    rows: Rows = field(default_factory=dict)
    merged: list[Range] = field(default_factory=list)
    more: list[str] = field(default_factory=list)
    """Text of its charts, text boxes and comments."""
    left_out: set[int] = field(default_factory=set)
    """Hidden rows: the rows above and below belong to one table."""

    def reference(self, cells: Range) -> str:
        """Return how a formula would name these cells, as in `'Q1 2025'!A3:D12`."""
        if not self.name:
            return str(cells)
        name = self.name if PLAIN_NAME.fullmatch(self.name) else "'" + self.name.replace("'", "''") + "'"
        return f"{name}!{cells}"


def letters(column: int) -> str:
    """Return the letters of a column: 1 is A, 27 is AA."""
    letters = ""
    while column > 0:
        column, rest = divmod(column - 1, 26)
        letters = chr(65 + rest) + letters
    return letters


def position(reference: str) -> tuple[int, int] | None:
    """Return row and column of a reference such as `B12`; None if it is not one."""
    match = REFERENCE.fullmatch(reference)
    if not match:
        return None
    column = 0
    for letter in match[1]:
        column = column * 26 + ord(letter) - 64
    return int(match[2]), column


def rectangle(reference: str) -> Range | None:
    """Return the range of a reference such as `A1:C4` or `B12`; None if it is not one."""
    first, _, last = reference.partition(":")
    begin = position(first)
    end = position(last or first)
    if begin is None or end is None:
        return None
    return Range(min(begin[0], end[0]), min(begin[1], end[1]), max(begin[0], end[0]), max(begin[1], end[1]))
