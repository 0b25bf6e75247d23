"""Whether the caller may change what binds a subject; for a key, once it is known whose it is."""

from __future__ import annotations

from typing import Any

from drw.api.gateway.v1.rate_limiting_pb2 import Block
from drw.billing.subjects import Subject
from drw.gateway.rate_limiting import validation
from drw.gateway.rate_limiting.key_directory import owner_of
from drw.kernel import tenancy
from drw.kernel.errors import NotFound
from drw.kernel.rpc import context
from drw.kernel.storage.database import Connection
from drw.kernel.tenancy import Owner


class KeyNotFound(NotFound):
    """There is no such key, or it is another tenant's."""


async def changeable(connection: Connection, subject: Subject, desk: str = "") -> str:
    """Return the subject's desk, where the caller may limit it; `desk` is what the request says of a key.

    Raises:
        Forbidden: the org or desk that the request names is another one, or the caller lacks a scope.
        KeyNotFound: the org has no such key, or the caller may not act for its desk.
    """
    if subject.kind != Block.KEY:
        validation.check_change(subject)
        return validation.owner(subject).desk
    if desk:
        tenancy.check_change(Owner(subject.org, desk))
    context.caller().must_hold(validation.LIMITS)
    owner = await owner_of(connection, subject)
    if owner is None or not tenancy.may_change(owner) or desk not in ("", owner.desk or desk):
        raise KeyNotFound(
            f"there is no key {subject.name[:80]!r} that you may limit; `drw keys list` shows those of your desk, "
            "and other desks need 'org:admin'",
            param="key",
        )
    return owner.desk or desk


async def removable(connection: Connection, subject: Subject, row: dict[str, Any] | None) -> bool:
    """Tell whether the caller may take away what binds a subject; `row` is what there is, with a key's desk.

    Raises:
        Forbidden: the desk that the request names is another one, or the caller lacks a scope.
    """
    if subject.kind != Block.KEY:
        validation.check_change(subject)
        return True
    context.caller().must_hold(validation.LIMITS)
    owner = await owner_of(connection, subject)
    desk = (owner.desk if owner else "") or (row["desk"] if row else "")
    return tenancy.may_change(Owner(subject.org, desk))
