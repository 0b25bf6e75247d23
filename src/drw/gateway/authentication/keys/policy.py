"""Policy for new keys: name, desk, scopes, walls and lifetime that a caller can grant."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from drw.api.gateway.v1.authentication_pb2 import CreateKeyRequest, Desk
from drw.gateway.authentication.tenants import permissions
from drw.kernel.errors import Forbidden, InvalidRequest
from drw.kernel.rpc.context import Principal
from drw.kernel.tenancy import Owner, may_change

MIN_LIFETIME = timedelta(minutes=1)
DEFAULT_LIFETIME = timedelta(days=90)
MAX_LIFETIME = timedelta(days=366)
ADMIN = "org:admin"


class ScopeNotHeld(Forbidden):
    """The caller cannot grant a scope that it lacks."""


class WallNotHeld(Forbidden):
    """The caller cannot grant a wall that it is outside of."""


def name(request: CreateKeyRequest) -> str:
    """Return the name of the key, stripped.

    Raises:
        InvalidRequest: it is empty or has unprintable characters.
    """
    stripped = request.name.strip()
    if not stripped or not stripped.isprintable():
        raise InvalidRequest(
            f"name is {request.name!r}; it must be 1 to 100 printable characters, as in 'research notebook'",
            param="name",
        )
    return stripped


def desk(request: CreateKeyRequest, principal: Principal, org: str) -> str:
    """Return the desk of the key, by default the caller's.

    Raises:
        Forbidden: the caller cannot create keys of this desk.
    """
    requested = request.desk or (principal.desk if org == principal.org else "")
    if not may_change(Owner(org, requested), principal):
        raise Forbidden(
            f"the key {principal.key!r} belongs to the desk {principal.desk!r}; "
            f"a key for {requested!r} needs {ADMIN!r}",
            scope=ADMIN,
        )
    return requested


def scopes(request: CreateKeyRequest, principal: Principal, granting_desk: Desk) -> tuple[str, ...]:
    """Return the scopes of the key, sorted.

    Raises:
        InvalidRequest: there are none, or one does not exist.
        Forbidden: the caller or the desk lacks a scope.
    """
    requested = permissions.scopes(request.scopes)
    if not requested:
        raise InvalidRequest(
            f"scopes is empty; a key needs at least one scope of: {', '.join(granting_desk.scopes)}", param="scopes"
        )
    check_scopes_held(requested, principal)
    permissions.check_within(requested, granting_desk.scopes, "scope", f"a key of the desk {granting_desk.name!r}")
    return requested


def check_scopes_held(scopes: Iterable[str], principal: Principal) -> None:
    """Raise `ScopeNotHeld` if the caller lacks a scope."""
    if missing := [scope for scope in scopes if scope not in principal.scopes]:
        raise ScopeNotHeld(
            f"the key {principal.key!r} lacks the scope {missing[0]!r}, so it cannot grant it", scope=missing[0]
        )


def walls(request: CreateKeyRequest, principal: Principal, granting_desk: Desk) -> tuple[str, ...]:
    """Return the walls of the key, sorted.

    Raises:
        Forbidden: the desk or the caller is outside of a wall.
    """
    requested = tuple(sorted(set(request.walls)))
    check_inside_walls(requested, principal)
    permissions.check_within(requested, granting_desk.walls, "wall", f"a key of the desk {granting_desk.name!r}")
    return requested


def check_inside_walls(walls: Iterable[str], principal: Principal) -> None:
    """Raise `WallNotHeld` if the caller is outside of a wall and no admin of the org."""
    if ADMIN not in principal.scopes and (outside := [wall for wall in walls if wall not in principal.walls]):
        raise WallNotHeld(
            f"the key {principal.key!r} is outside the wall {outside[0]!r}, so it cannot grant it", param="walls"
        )


def lifetime(request: CreateKeyRequest, maximum: timedelta) -> timedelta:
    """Return the lifetime of the key; `maximum` is the longest that the caller can grant, in whole seconds.

    Raises:
        Forbidden: the maximum is below `MIN_LIFETIME`.
        InvalidRequest: the requested lifetime is not within `MIN_LIFETIME` and the maximum.
    """
    if maximum < MIN_LIFETIME:
        raise Forbidden("the caller's key expires within a minute, so it cannot create keys")
    default = min(DEFAULT_LIFETIME, maximum)
    requested = timedelta(seconds=request.ttl_seconds) if request.ttl_seconds else default
    if not MIN_LIFETIME <= requested <= maximum:
        hint = "" if maximum == MAX_LIFETIME else ": the caller's own identity is short-lived"
        raise InvalidRequest(
            f"ttl_seconds is {request.ttl_seconds}; it can be {MIN_LIFETIME.total_seconds():.0f} "
            f"to {maximum.total_seconds():.0f}, by default {default.total_seconds():.0f}{hint}",
            param="ttl_seconds",
        )
    return requested
