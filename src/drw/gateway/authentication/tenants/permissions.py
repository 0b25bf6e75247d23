"""Checks shared by orgs, desks, keys and issuers: existing scopes, permissions of the parent, page tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from drw.kernel.errors import Forbidden, InvalidRequest
from drw.kernel.rpc.context import SCOPES

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
DEFAULT_PAGE = 100


class UnknownScope(InvalidRequest):
    """The scope does not exist."""


class PermissionsExceeded(Forbidden):
    """A key, desk, certificate or role has more permissions than its desk or org."""


def lookup_name(value: str) -> str:
    """Return a name for a query; a name with characters that the database cannot store becomes empty."""
    return value if value.isprintable() else ""


def scopes(values: Iterable[str], param: str = "scopes") -> tuple[str, ...]:
    """Return the scopes, validated and sorted."""
    requested = tuple(sorted(set(values)))
    if unknown := [scope for scope in requested if scope not in SCOPES]:
        raise UnknownScope(f"{unknown[0][:80]!r} is not a scope; there are: {', '.join(SCOPES)}", param=param)
    return requested


def check_within(requested: Sequence[str], allowed: Sequence[str], kind: str, holder: str) -> None:
    """Raise `PermissionsExceeded` if a requested scope or wall is not allowed; `kind` is "scope" or "wall"."""
    if exceeding := [value for value in requested if value not in allowed]:
        listed = ", ".join(allowed) or "none"
        message = f"{holder} cannot have the {kind} {exceeding[0]!r}; it can have: {listed}"
        raise PermissionsExceeded(message, param=f"{kind}s")


def page_token(token: str) -> str:
    """Return the name of a page token: the last one of the previous page.

    Raises:
        InvalidRequest: the token is not a name.
    """
    if token and not NAME.fullmatch(token):
        raise InvalidRequest("page_token is not a token of an earlier response", param="page_token")
    return token


def first_names(names: Sequence[str], maximum: int = 5) -> str:
    """Format the first names and the number of the others, as in "'a', 'b' and 3 more"."""
    more = f" and {len(names) - maximum} more" if len(names) > maximum else ""
    return ", ".join(repr(name) for name in names[:maximum]) + more
