"""Checks of one field of what operators make; each raises where the value is wrong, and says what would be right."""

from __future__ import annotations

import re
from collections.abc import Collection

from drw.kernel.errors import InvalidRequest

NAME = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?")


def check_name(value: str) -> None:
    """Raise where a record cannot have this name."""
    if not NAME.fullmatch(value):
        raise InvalidRequest(
            f"name is {value[:80]!r}; it can have small letters, digits, '-', '_' and '.', at most 63", param="name"
        )


def one_of(value: str, known: Collection[str], field: str) -> None:
    """Raise where the value is none of those that there are."""
    if value not in known:
        raise InvalidRequest(
            f"{field}: there is no {value[:80]!r}; there are: {', '.join(known) or 'none'}", param=field
        )


def like(value: str, pattern: re.Pattern[str], field: str, right: str) -> None:
    """Raise where the value does not look so; `right` says how it would, as in "the name of a file"."""
    if not pattern.fullmatch(value):
        raise InvalidRequest(f"{field}: {value[:80]!r} is not {right}", param=field)


def between(value: int, least: int, most: int, field: str) -> None:
    """Raise where a number is out of its bounds."""
    if not least <= value <= most:
        raise InvalidRequest(f"{field} is {value}; it can be {least} to {most}", param=field)
