"""Dates and fiscal quarters in a text, in all usual notations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
ORDINALS = {"first": 1, "second": 2, "third": 3, "fourth": 4, "1st": 1, "2nd": 2, "3rd": 3, "4th": 4}

_MONTH = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_YEAR = r"(?P<year>(?:19|20)\d\d)"
DATES = tuple(
    re.compile(rf"\b{form}\b", re.IGNORECASE)
    for form in (
        rf"{_MONTH}\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?\s*,?\s+{_YEAR}",
        rf"(?P<day>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH},?\s+{_YEAR}",
        rf"{_YEAR}-(?P<month>\d\d)-(?P<day>\d\d)",
    )
)
MONTH_OF_YEAR = re.compile(rf"\b{_MONTH}\s+(?:of\s+)?{_YEAR}\b", re.IGNORECASE)

_FISCAL = r"(?:fiscal|fy)?\s*(?:year\s+)?"
_QUARTER = r"(?:q(?P<number>[1-4])|(?P<ordinal>first|second|third|fourth|1st|2nd|3rd|4th)[\s-]+(?:fiscal\s+)?quarter)"
QUARTERS = tuple(
    re.compile(rf"\b{form}", re.IGNORECASE)
    for form in (
        rf"{_QUARTER}(?:\s+of)?(?:\s+the)?[\s,_-]+{_FISCAL}{_YEAR}\b",
        rf"(?:fy\s*)?{_YEAR}(?:['’]s)?[\s,_-]*(?:fiscal\s+)?{_QUARTER}\b",
        r"(?P<number>[1-4])q\s*(?P<year>(?:20)?\d\d)\b",
        r"q(?P<number>[1-4])\s*(?:fy\s*)?['’]?(?P<year>\d\d)\b",
    )
)


def dates(text: str) -> list[date]:
    """Return the dates of a text, in the order of the forms and then of the text."""
    return [day for form in DATES for match in form.finditer(text) if (day := _date(match))]


def quarters(text: str) -> list[tuple[int, int]]:
    """Return the quarters that a text names as year and number: "third quarter of fiscal 2023" is (2023, 3)."""
    return [_quarter(match) for form in QUARTERS for match in form.finditer(text)]


def period_terms(text: str) -> list[str]:
    """Return a term for each date, month and quarter, so that all ways to write one are the same term."""
    return list(dict.fromkeys(_period_terms(text)))


def _period_terms(text: str) -> Iterator[str]:
    for day in dates(text):
        yield day.isoformat()
        yield f"{day:%Y-%m}"
    for match in MONTH_OF_YEAR.finditer(text):
        yield f"{match['year']}-{month(match['month']):02}"
    for year, number in quarters(text):
        yield f"{year}q{number}"


def _quarter(match: re.Match[str]) -> tuple[int, int]:
    groups = match.groupdict()
    year = int(groups["year"])
    number = groups.get("number") or ORDINALS[groups["ordinal"].lower()]
    return year if year > 99 else 2000 + year, int(number)


def _date(match: re.Match[str]) -> date | None:
    try:
        return date(int(match["year"]), month(match["month"]), int(match["day"]))
    except ValueError:
        return None


def month(name: str) -> int:
    """Return the number of a month from its name, short or long, or its digits."""
    return int(name) if name.isdigit() else MONTHS.index(name[:3].lower()) + 1
