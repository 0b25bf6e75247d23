"""Checks of orgs, desks and keys beyond single fields: scopes that exist, bounds of the parent, page tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from drw.kernel.errors import Forbidden, InvalidRequest
from drw.kernel.rpc.context import SCOPES

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
DEFAULT_PAGE = 100


class UnknownScope(InvalidRequest):
    """The scope does not exist."""


class OutOfBounds(Forbidden):
    """More permissions than the desk or the org has."""


def lookup_name(value: str) -> str:
    """Return a name to look up; a name that no record can have becomes empty."""
    return value if value.isprintable() else ""


def scopes(values: Iterable[str], param: str = "scopes") -> tuple[str, ...]:
    """Return the scopes, validated and sorted."""
    requested = tuple(sorted(set(values)))
    if unknown := [scope for scope in requested if scope not in SCOPES]:
        raise UnknownScope(f"{unknown[0][:80]!r} is not a scope; there are: {', '.join(SCOPES)}", param=param)
    return requested


def check_within(requested: Sequence[str], bound: Sequence[str], kind: str, whose: str) -> None:
    """Raise if a requested value is not within the bound."""
    if beyond := [one for one in requested if one not in bound]:
        there = ", ".join(bound) or "none"
        raise OutOfBounds(f"{whose} cannot have the {kind} {beyond[0]!r}; it can have: {there}", param=f"{kind}s")


def page_token(token: str) -> str:
    """Return the name after which a page begins."""
    if token and not NAME.fullmatch(token):
        raise InvalidRequest("page_token is not a token of an earlier response", param="page_token")
    return token


def first_names(names: Sequence[str], maximum: int = 5) -> str:
    """Return the first names, and the number of the others."""
    more = f" and {len(names) - maximum} more" if len(names) > maximum else ""
    return ", ".join(repr(one) for one in names[:maximum]) + more
