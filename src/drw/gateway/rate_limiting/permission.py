"""Permission to change limits and budgets of a subject."""

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
    """The key does not exist, or belongs to another tenant."""


async def desk_to_change(connection: Connection, subject: Subject, desk: str = "") -> str:
    """Return the desk of a subject that the caller can limit; `desk` is the desk in the request.

    Raises:
        Forbidden: the org or desk in the request is wrong, or the caller lacks a scope.
        KeyNotFound: the org has no such key, or the caller cannot act for its desk.
    """
    if subject.kind != Block.KEY:
        validation.check_change(subject)
        return validation.owner(subject).desk
    if desk:
        tenancy.check_change(Owner(subject.org, desk))
    context.caller().require_scope(validation.LIMITS_SCOPE)
    owner = await owner_of(connection, subject)
    if owner is None or not tenancy.may_change(owner) or desk not in ("", owner.desk or desk):
        raise KeyNotFound(
            f"there is no key {subject.name[:80]!r} that you may limit; `drw keys list` shows those of your desk, "
            "and other desks need 'org:admin'",
            param="key",
        )
    return owner.desk or desk


async def is_removable(connection: Connection, subject: Subject, row: dict[str, Any] | None) -> bool:
    """Return whether the caller can remove a limit or budget; `row` is the stored one.

    Raises:
        Forbidden: the desk in the request is wrong, or the caller lacks a scope.
    """
    if subject.kind != Block.KEY:
        validation.check_change(subject)
        return True
    context.caller().require_scope(validation.LIMITS_SCOPE)
    owner = await owner_of(connection, subject)
    desk = (owner.desk if owner else "") or (row["desk"] if row else "")
    return tenancy.may_change(Owner(subject.org, desk))
