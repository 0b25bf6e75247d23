"""Tenant isolation: whether a caller can read or change objects of a desk, an org or the platform.

Scopes of endpoints restrict actions; this module restricts tenants. All services use it:

| owner of the object        | to read it       | to change it     |
| -------------------------- | ---------------- | ---------------- |
| the caller's own desk      |                  |                  |
| the caller's org           |                  | `org:admin`      |
| another desk of that org   | `org:admin`      | `org:admin`      |
| another org                | `platform:admin` | `platform:admin` |
| the platform               |                  | `platform:admin` |

A request that names another org or desk fails with `Forbidden`. A request for the id of an object that the caller
cannot read fails with the service's `NotFound`, as if the object did not exist.
"""

from __future__ import annotations

from dataclasses import dataclass

from drw.kernel.errors import Forbidden
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal

ORG_ADMIN, PLATFORM_ADMIN = "org:admin", "platform:admin"


@dataclass(frozen=True, slots=True)
class Owner:
    """Owner of an object: the platform, an org or a desk."""

    org: str
    """Empty: the platform, which all orgs share."""
    desk: str = ""
    """Empty: the org."""


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
        or _required_scope(owner, principal) in principal.scopes
    )


def check_change(owner: Owner) -> None:
    """Check that the caller can change objects of an owner that the request names.

    Raises:
        Forbidden: the owner is another org, another desk or the platform, and the caller lacks the scope.
    """
    principal = context.caller()
    if may_change(owner, principal):
        return
    required = _required_scope(owner, principal)
    if required == PLATFORM_ADMIN and owner.org:
        raise _other_org_error(owner.org, principal)
    reason = f", which the desk {owner.desk[:80]!r} needs" if owner.desk else ""
    raise Forbidden(f"the key {principal.key!r} lacks the scope {required!r}{reason}", scope=required)


def requested_org(requested: str) -> str:
    """Return the org that a request names; default: the caller's org.

    Raises:
        Forbidden: the request names another org, and the caller lacks `platform:admin`.
    """
    principal = context.caller()
    if requested and requested != principal.org and PLATFORM_ADMIN not in principal.scopes:
        raise _other_org_error(requested, principal)
    return requested or principal.org


def may_read_platform() -> bool:
    """Return whether the caller can read the whole platform: with `platform:admin`, or in internal calls."""
    principal = context.caller_or_none()
    return principal is None or PLATFORM_ADMIN in principal.scopes


def may_act_for_org(org: str) -> bool:
    """Return whether the caller can act for every desk of this org."""
    return may_change(Owner(org))


def _other_org_error(org: str, principal: Principal) -> Forbidden:
    return Forbidden(
        f"the caller belongs to the org {principal.org!r}, not to {org[:80]!r}, and lacks the scope {PLATFORM_ADMIN!r}",
        scope=PLATFORM_ADMIN,
    )


def _required_scope(owner: Owner, principal: Principal) -> str:
    return ORG_ADMIN if owner.org and owner.org == principal.org else PLATFORM_ADMIN
