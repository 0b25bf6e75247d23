"""Policy for new keys: name, desk, scopes, walls and lifetime that a caller can grant."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from drw.api.gateway.v1.authentication_pb2 import CreateKeyRequest, Desk
from drw.gateway.authentication.tenants import permissions
from drw.kernel.errors import Forbidden, InvalidRequest
from drw.kernel.rpc.context import Principal
from drw.kernel.tenancy import Owner, may_change

MIN_LIFE = timedelta(minutes=1)
DEFAULT_LIFE = timedelta(days=90)
MAX_LIFE = timedelta(days=366)
ADMIN = "org:admin"


class ScopeNotHeld(Forbidden):
    """A scope that the caller cannot grant, since it lacks it."""


class WallNotHeld(Forbidden):
    """A wall that the caller cannot grant, since it is outside of it."""


def name(request: CreateKeyRequest) -> str:
    """Return the key's name."""
    stripped = request.name.strip()
    if not stripped or not stripped.isprintable():
        raise InvalidRequest(
            f"name is {request.name!r}; it must be 1 to 100 printable characters, as in 'research notebook'",
            param="name",
        )
    return stripped


def desk(request: CreateKeyRequest, principal: Principal, org: str) -> str:
    """Return the desk that the key is for."""
    requested = request.desk or (principal.desk if org == principal.org else "")
    if not may_change(Owner(org, requested), principal):
        raise Forbidden(
            f"the key {principal.key!r} belongs to the desk {principal.desk!r}; "
            f"a key for {requested!r} needs {ADMIN!r}",
            scope=ADMIN,
        )
    return requested


def scopes(request: CreateKeyRequest, principal: Principal, bound: Desk) -> tuple[str, ...]:
    """Return the scopes of the key, sorted: those of the caller and within the desk's."""
    requested = permissions.scopes(request.scopes)
    if not requested:
        raise InvalidRequest(
            f"scopes is empty; a key needs at least one scope of: {', '.join(bound.scopes)}", param="scopes"
        )
    check_scopes_held(requested, principal)
    permissions.check_within(requested, bound.scopes, "scope", f"a key of the desk {bound.name!r}")
    return requested


def check_scopes_held(scopes: Iterable[str], principal: Principal) -> None:
    """Raise if the caller would grant a scope that it lacks."""
    if missing := [scope for scope in scopes if scope not in principal.scopes]:
        raise ScopeNotHeld(
            f"the key {principal.key!r} lacks the scope {missing[0]!r}, so it cannot grant it", scope=missing[0]
        )


def walls(request: CreateKeyRequest, principal: Principal, bound: Desk) -> tuple[str, ...]:
    """Return the walls of the key, sorted: within the desk's, and the caller's own where it is no admin of the org."""
    requested = tuple(sorted(set(request.walls)))
    check_inside_walls(requested, principal)
    permissions.check_within(requested, bound.walls, "wall", f"a key of the desk {bound.name!r}")
    return requested


def check_inside_walls(walls: Iterable[str], principal: Principal) -> None:
    """Raise if the caller would grant a wall that it is outside of, without being an admin of the org."""
    if ADMIN not in principal.scopes and (outside := [wall for wall in walls if wall not in principal.walls]):
        raise WallNotHeld(
            f"the key {principal.key!r} is outside the wall {outside[0]!r}, so it cannot grant it", param="walls"
        )


def lifetime(request: CreateKeyRequest, maximum: timedelta) -> timedelta:
    """Return the lifetime of the key; `maximum` is the longest that the caller can grant, in whole seconds."""
    if maximum < MIN_LIFE:
        raise Forbidden("the caller's own key ends within a minute, and so would all that is made with it")
    default = min(DEFAULT_LIFE, maximum)
    requested = timedelta(seconds=request.ttl_seconds) if request.ttl_seconds else default
    if not MIN_LIFE <= requested <= maximum:
        why = "" if maximum == MAX_LIFE else ": the caller's own identity is short-lived"
        raise InvalidRequest(
            f"ttl_seconds is {request.ttl_seconds}; it can be {MIN_LIFE.total_seconds():.0f} "
            f"to {maximum.total_seconds():.0f}, by default {default.total_seconds():.0f}{why}",
            param="ttl_seconds",
        )
    return requested
