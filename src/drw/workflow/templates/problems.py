"""The mistakes of a template, each with its line and column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from drw.kernel.errors import InvalidRequest

MAX_PROBLEMS = 50


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake; line and column count from 1."""

    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.line}:{self.column}: {self.message}"


class InvalidTemplate(InvalidRequest):
    """A source is not a valid template."""

    def __init__(self, location: str, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(f"{location}:{problem}" for problem in problems[:MAX_PROBLEMS]))
        self.problems = tuple(problems[:MAX_PROBLEMS])


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a hint with the nearest name, or with all names if none is near."""
    known = sorted(names)
    if close := get_close_matches(name, known, 1, 0.6):
        return f"did you mean {close[0]!r}?"
    return f"there are: {', '.join(known) or 'none'}"
