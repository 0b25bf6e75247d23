"""Tenant isolation: whether a caller may read or change what belongs to a desk, an org or the platform.

Scopes of endpoints restrict actions; this module restricts tenants. All services use it:

| whose it is                | to read it       | to change it     |
| -------------------------- | ---------------- | ---------------- |
| the caller's own desk      |                  |                  |
| the caller's org           |                  | `org:admin`      |
| another desk of that org   | `org:admin`      | `org:admin`      |
| another org                | `platform:admin` | `platform:admin` |
| the platform               |                  | `platform:admin` |

A request that names another org or desk by itself is refused with `Forbidden`. An id of something that is not the
caller's is answered with the service's own `NotFound`, as if it did not exist.
"""

from __future__ import annotations

from dataclasses import dataclass

from drw.kernel.errors import Forbidden
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal

ORG_ADMIN, PLATFORM_ADMIN = "org:admin", "platform:admin"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose something is."""

    org: str
    """Empty: the platform's, which every org shares."""
    desk: str = ""
    """Empty: the whole org's."""


PLATFORM = Owner("")


def may_read(owner: Owner, principal: Principal | None = None) -> bool:
    """Return whether the caller can see objects of this owner."""
    principal = principal or context.caller()
    return owner == PLATFORM or owner == Owner(principal.org) or may_change(owner, principal)


def may_change(owner: Owner, principal: Principal | None = None) -> bool:
    """Return whether the caller can change objects of this owner."""
    principal = principal or context.caller()
    return (
        owner == Owner(principal.org, principal.desk) != Owner(principal.org)
        or _needed(owner, principal) in principal.scopes
    )


def check_change(owner: Owner) -> None:
    """Check that the caller can change objects of this owner, which the request names.

    Raises:
        Forbidden: it is another org, desk or the platform, and the caller lacks the scope.
    """
    principal = context.caller()
    if may_change(owner, principal):
        return
    needed = _needed(owner, principal)
    if needed == PLATFORM_ADMIN and owner.org:
        raise _foreign(owner.org, principal)
    what = f", which the desk {owner.desk[:80]!r} needs" if owner.desk else ""
    raise Forbidden(f"the key {principal.key!r} lacks the scope {needed!r}{what}", scope=needed)


def named_org(named: str) -> str:
    """Return the org that a request names; default: the caller's org.

    Raises:
        Forbidden: it is another org, and the caller lacks `platform:admin`.
    """
    principal = context.caller()
    if named and named != principal.org and PLATFORM_ADMIN not in principal.scopes:
        raise _foreign(named, principal)
    return named or principal.org


def sees_platform() -> bool:
    """Return whether the caller can see the whole platform: with `platform:admin`, or for internal calls without a
    caller.
    """
    principal = context.caller_or_none()
    return principal is None or PLATFORM_ADMIN in principal.scopes


def whole_org(org: str) -> bool:
    """Return whether the caller can act for every desk of this org."""
    return may_change(Owner(org))


def _foreign(org: str, principal: Principal) -> Forbidden:
    return Forbidden(
        f"the caller belongs to the org {principal.org!r}, not to {org[:80]!r}, and lacks the scope {PLATFORM_ADMIN!r}",
        scope=PLATFORM_ADMIN,
    )


def _needed(owner: Owner, principal: Principal) -> str:
    return ORG_ADMIN if owner.org and owner.org == principal.org else PLATFORM_ADMIN
