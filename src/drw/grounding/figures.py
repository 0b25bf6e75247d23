"""Figures (numbers with units) of a text, and whether another text contains them.

Conservative: the digits and the percent sign must be the same, and the scales must agree if both texts name one.
Rounded and computed figures do not match.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

SCALES = {
    "thousand": Decimal(10) ** 3,
    "k": Decimal(10) ** 3,
    "million": Decimal(10) ** 6,
    "mn": Decimal(10) ** 6,
    "m": Decimal(10) ** 6,
    "billion": Decimal(10) ** 9,
    "bn": Decimal(10) ** 9,
    "b": Decimal(10) ** 9,
    "trillion": Decimal(10) ** 12,
}
FIGURE = re.compile(
    r"(?<![\w.,/-])(?P<minus>[-−(]\s?)?(?P<currency>(?:US)?[$€£¥]\s?\(?)?"
    r"(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
    r"(?:\)?\s?(?P<percent>%|percent\b|percentage\s+points?\b)"
    r"|[\s-]?(?P<scale>thousands?|millions?|billions?|trillions?|mn|bn|[kmb])\b)?"
    r"(?![\w]|[-–/]\w|[.,]\d)",
    re.IGNORECASE,
)
UNIT_OF_TABLE = re.compile(r"\bin\s+(thousand|million|billion)s\b", re.IGNORECASE)
ENUMERATION = re.compile(r"(?m)^\s*\d{1,2}[.)]\s")


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with its unit and scale."""

    text: str
    start: int
    end: int
    number: Decimal
    percent: bool
    scale: Decimal | None
    unitless: bool
    """Whether it consists of digits only: a year, a day, a count."""


def find(text: str) -> list[Figure]:
    """Return the figures of a text in order, without the numbers of list items."""
    skipped = {match.end() - len(match[0].lstrip()) for match in ENUMERATION.finditer(text)}
    return [_figure(match) for match in FIGURE.finditer(text) if match.start("number") not in skipped]


def occurs_in(figure: Figure, text: str) -> bool:
    """Return whether a text contains a figure, also in tables "in millions"."""
    units = {SCALES[name.lower()] for name in UNIT_OF_TABLE.findall(text)}
    return any(_matches(figure, other, units) for other in find(text))


def repeats_question(figure: Figure, question: str) -> bool:
    """Return whether a figure repeats a number without a unit of the question, such as a year."""
    return figure.unitless and any(figure.number == other.number for other in find(question))


def _matches(figure: Figure, other: Figure, units: Iterable[Decimal]) -> bool:
    if figure.percent != other.percent:
        return False
    if figure.scale is None and other.scale is None:
        return figure.number == other.number
    if other.scale is not None:
        return figure.number * (figure.scale or 1) == other.number * other.scale
    scale = figure.scale or Decimal(1)
    if units:
        return any(figure.number * scale == other.number * unit for unit in units)
    return figure.number == other.number


def _figure(match: re.Match[str]) -> Figure:
    scale = (match["scale"] or "").lower()
    name = scale.rstrip("s") if len(scale) > 2 else scale
    return Figure(
        text=match[0].strip(),
        start=match.start() + len(match[0]) - len(match[0].lstrip()),
        end=match.end(),
        number=Decimal(match["number"].replace(",", "")),
        percent=bool(match["percent"]),
        scale=SCALES[name] if name else None,
        unitless=match["number"].isdigit() and not (match["currency"] or match["percent"] or scale),
    )
