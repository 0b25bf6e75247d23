"""What records may be called and hold: names, titles, scopes and walls, and what is within what."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from drw.kernel.errors import Forbidden, InvalidRequest
from drw.kernel.rpc.context import SCOPES

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
MAX_TITLE = 100
MAX_WALLS = 100
DEFAULT_PAGE = 100
MAX_PAGE = 1000


class UnknownScope(InvalidRequest):
    """A scope that there is not."""


class OutOfBounds(Forbidden):
    """More than the desk or the org may hold."""


def name(value: str, param: str, most: int = 63) -> str:
    """Return a name that is well formed."""
    if not NAME.fullmatch(value) or len(value) > most:
        raise InvalidRequest(
            f"{param} is {value[:80]!r}; it can have small letters, digits, '-' and '_', at most {most}", param=param
        )
    return value


def looked_up(value: str) -> str:
    """Return what is only looked up, and so may be anything; what no record can be called becomes nothing."""
    return value if value.isprintable() else ""


def title(value: str) -> str:
    """Return a title that fits on a line."""
    if len(value) > MAX_TITLE or not (value.isprintable() or not value):
        raise InvalidRequest(f"title: at most {MAX_TITLE} printable characters", param="title")
    return value


def scopes(values: Iterable[str], param: str = "scopes") -> tuple[str, ...]:
    """Return scopes that there are, sorted."""
    wanted = tuple(sorted(set(values)))
    if unknown := [scope for scope in wanted if scope not in SCOPES]:
        raise UnknownScope(f"{unknown[0][:80]!r} is not a scope; there are: {', '.join(SCOPES)}", param=param)
    return wanted


def walls(values: Iterable[str]) -> tuple[str, ...]:
    """Return walls that are well formed, sorted."""
    wanted = tuple(sorted({name(value, "walls") for value in values}))
    if len(wanted) > MAX_WALLS:
        raise InvalidRequest(f"{len(wanted)} walls; there can be {MAX_WALLS}", param="walls")
    return wanted


def within(wanted: Sequence[str], bound: Sequence[str], kind: str, whose: str) -> None:
    """Raise where something is wanted that the bound does not have."""
    if beyond := [one for one in wanted if one not in bound]:
        there = ", ".join(bound) or "none"
        raise OutOfBounds(f"{whose} may not hold the {kind} {beyond[0]!r}; it may hold: {there}", param=f"{kind}s")


def page_size(wanted: int) -> int:
    """Return how many records a page has."""
    if not 0 <= wanted <= MAX_PAGE:
        raise InvalidRequest(f"page_size is {wanted}; it can be 1 to {MAX_PAGE}", param="page_size")
    return wanted or DEFAULT_PAGE


def page_token(token: str) -> str:
    """Return the name after which a page begins."""
    if token and not NAME.fullmatch(token):
        raise InvalidRequest("page_token is not one that an earlier answer gave", param="page_token")
    return token


def some(found: Sequence[str], most: int = 5) -> str:
    """Return the first of many names, and how many more there are."""
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(repr(one) for one in found[:most]) + more
