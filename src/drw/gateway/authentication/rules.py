"""What a new key may be: its name, scopes, desk, life and limit."""

from __future__ import annotations

import re
from datetime import timedelta

from drw.api.gateway.v1.authentication_pb2 import CreateKeyRequest
from drw.kernel.call import SCOPES, Caller
from drw.kernel.errors import Forbidden, InvalidRequest

MAX_NAME = 100
MIN_LIFE = timedelta(minutes=1)
DEFAULT_LIFE = timedelta(days=90)
MAX_LIFE = timedelta(days=366)
MAX_PER_MINUTE = 1_000_000
DESK = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class UnknownScope(InvalidRequest):
    """A scope that there is not."""


class ScopeNotHeld(Forbidden):
    """A scope that the caller cannot pass on, since it lacks it."""


def name(request: CreateKeyRequest) -> str:
    """Return the key's name."""
    wanted = request.name.strip()
    if not 1 <= len(wanted) <= MAX_NAME or not wanted.isprintable():
        raise InvalidRequest(f"name: 1 to {MAX_NAME} printable characters, as in 'research notebook'", param="name")
    return wanted


def desk(request: CreateKeyRequest, who: Caller) -> str:
    """Return the desk that the key is for."""
    wanted = request.desk or who.desk
    if not DESK.fullmatch(wanted):
        raise InvalidRequest(
            f"desk is {wanted!r}; it can have small letters, digits, '-' and '_', at most 63", param="desk"
        )
    if wanted != who.desk and "org:admin" not in who.scopes:
        raise Forbidden(
            f"the key {who.key!r} belongs to the desk {who.desk!r}; a key for {wanted!r} needs 'org:admin'",
            scope="org:admin",
        )
    return wanted


def scopes(request: CreateKeyRequest, who: Caller) -> tuple[str, ...]:
    """Return the scopes of the key, sorted."""
    wanted = tuple(sorted(set(request.scopes)))
    unknown = [scope for scope in wanted if scope not in SCOPES]
    if unknown or not wanted:
        said = f"{unknown[0]!r} is not a scope" if unknown else "a key needs at least one scope"
        raise UnknownScope(f"{said}; there are: {', '.join(SCOPES)}", param="scopes")
    if missing := [scope for scope in wanted if scope not in who.scopes]:
        raise ScopeNotHeld(
            f"the key {who.key!r} lacks the scope {missing[0]!r}, so it cannot pass it on", scope=missing[0]
        )
    return wanted


def life(request: CreateKeyRequest) -> timedelta:
    """Return for how long the key is good."""
    wanted = timedelta(seconds=min(request.ttl_seconds, 1 << 40)) if request.ttl_seconds else DEFAULT_LIFE
    if not MIN_LIFE <= wanted <= MAX_LIFE:
        raise InvalidRequest(
            f"ttl_seconds is {request.ttl_seconds}; it can be {MIN_LIFE.total_seconds():.0f} "
            f"to {MAX_LIFE.total_seconds():.0f}, by default {DEFAULT_LIFE.total_seconds():.0f}",
            param="ttl_seconds",
        )
    return wanted


def requests_per_minute(request: CreateKeyRequest) -> int:
    """Return the key's own limit; 0: the default's."""
    if not 0 <= request.requests_per_minute <= MAX_PER_MINUTE:
        raise InvalidRequest(
            f"requests_per_minute is {request.requests_per_minute}; it can be 1 to {MAX_PER_MINUTE}",
            param="requests_per_minute",
        )
    return request.requests_per_minute
