"""What a new key may be: its name, scopes, walls, life and limit, and whose it may be."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from drw.api.gateway.v1.authentication_pb2 import CreateKeyRequest, Desk
from drw.gateway.authentication.tenants import record_validation
from drw.kernel.errors import Forbidden, InvalidRequest
from drw.kernel.rpc.context import Principal
from drw.kernel.tenancy import Owner, may_change

MIN_LIFE = timedelta(minutes=1)
DEFAULT_LIFE = timedelta(days=90)
MAX_LIFE = timedelta(days=366)
ADMIN = "org:admin"


class ScopeNotHeld(Forbidden):
    """A scope that the caller cannot pass on, since it lacks it."""


class WallNotHeld(Forbidden):
    """A wall that the caller cannot pass on, since it stands outside."""


def name(request: CreateKeyRequest) -> str:
    """Return the key's name."""
    wanted = request.name.strip()
    if not wanted or not wanted.isprintable():
        raise InvalidRequest(
            f"name is {request.name!r}; it must be 1 to 100 printable characters, as in 'research notebook'",
            param="name",
        )
    return wanted


def desk(request: CreateKeyRequest, who: Principal, org: str) -> str:
    """Return the desk that the key is for."""
    wanted = request.desk or (who.desk if org == who.org else "")
    if not may_change(Owner(org, wanted), who):
        raise Forbidden(
            f"the key {who.key!r} belongs to the desk {who.desk!r}; a key for {wanted!r} needs {ADMIN!r}", scope=ADMIN
        )
    return wanted


def scopes(request: CreateKeyRequest, who: Principal, bound: Desk) -> tuple[str, ...]:
    """Return the scopes of the key, sorted: those of the caller and within the desk's."""
    wanted = record_validation.scopes(request.scopes)
    if not wanted:
        raise InvalidRequest(f"a key needs at least one scope; there are: {', '.join(bound.scopes)}", param="scopes")
    held(wanted, who)
    record_validation.within(wanted, bound.scopes, "scope", f"a key of the desk {bound.name!r}")
    return wanted


def held(wanted: Iterable[str], who: Principal) -> None:
    """Raise where the caller would pass on a scope that it lacks, to a key or to anybody else."""
    if missing := [scope for scope in wanted if scope not in who.scopes]:
        raise ScopeNotHeld(
            f"the key {who.key!r} lacks the scope {missing[0]!r}, so it cannot pass it on", scope=missing[0]
        )


def walls(request: CreateKeyRequest, who: Principal, bound: Desk) -> tuple[str, ...]:
    """Return the walls of the key, sorted: within the desk's, and the caller's own where it is no admin of the org."""
    wanted = tuple(sorted(set(request.walls)))
    inside(wanted, who)
    record_validation.within(wanted, bound.walls, "wall", f"a key of the desk {bound.name!r}")
    return wanted


def inside(wanted: Iterable[str], who: Principal) -> None:
    """Raise where the caller would pass on a wall outside which it stands, and is no admin of the org."""
    if ADMIN not in who.scopes and (outside := [wall for wall in wanted if wall not in who.walls]):
        raise WallNotHeld(
            f"the key {who.key!r} stands outside the wall {outside[0]!r}, so it cannot pass it on", param="walls"
        )


def life(request: CreateKeyRequest, most: timedelta) -> timedelta:
    """Return for how long the key is good; `most` is what the caller may give, in whole seconds."""
    if most < MIN_LIFE:
        raise Forbidden("the caller's own key ends within a minute, and so would all that is made with it")
    usual = min(DEFAULT_LIFE, most)
    wanted = timedelta(seconds=request.ttl_seconds) if request.ttl_seconds else usual
    if not MIN_LIFE <= wanted <= most:
        why = "" if most == MAX_LIFE else ": the caller's own identity is short-lived"
        raise InvalidRequest(
            f"ttl_seconds is {request.ttl_seconds}; it can be {MIN_LIFE.total_seconds():.0f} "
            f"to {most.total_seconds():.0f}, by default {usual.total_seconds():.0f}{why}",
            param="ttl_seconds",
        )
    return wanted
