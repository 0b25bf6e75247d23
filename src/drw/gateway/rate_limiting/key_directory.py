"""Key directory: the org and desk of each key, so that no tenant can limit a key of another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC
from typing import Any

from drw.api.gateway.v1.rate_limiting_pb2 import KeyOwner
from drw.billing.subjects import Subject
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc import context
from drw.kernel.storage.database import Connection
from drw.kernel.tenancy import Owner

MAX_OWNERS = 2000
"""Owners in one announcement."""

PUT = """
insert into key_owner select * from unnest(%s::text[], %s::text[], %s::text[], %s::timestamptz[])
on conflict (key) do update set org = excluded.org, desk = excluded.desk, expires_at = excluded.expires_at
where (key_owner.org, key_owner.desk, key_owner.expires_at)
      is distinct from (excluded.org, excluded.desk, excluded.expires_at)
"""
FORGET = """
delete from key_owner
where not key = any(%s) and (starts_with(key, 'oidc:') or starts_with(key, 'cert:'))
"""
FORGET_EXPIRED = "delete from key_owner where expires_at < now() - interval '1 day'"
ENTRY = "case when starts_with({name}, 'oidc:') then 'oidc:' || split_part({name}, ':', 2) || ':' else {name} end"
"""Under which key the directory has the owner of a subject."""
OWNER = "select org, desk from key_owner where key = {entry}"
# From before the directory: anybody could set them.
FOREIGN = """
delete from {table} bound using key_owner owner
where bound.kind = 'KEY' and owner.key = any(%s) and owner.key = {entry} and bound.org <> owner.org
returning bound.*
"""
MOVED = """
update {table} bound set desk = owner.desk from key_owner owner
where bound.kind = 'KEY' and owner.key = any(%s) and owner.key = {entry} and bound.org = owner.org
  and owner.desk <> '' and bound.desk <> owner.desk
"""


async def announce(connection: Connection, owners: Sequence[KeyOwner], *, external: bool = False) -> None:
    """Store the owners of keys; `external`: delete all other certificates and issuers.

    Raises:
        InvalidRequest: too many owners, or an owner without an org.
    """
    if len(owners) > MAX_OWNERS:
        raise InvalidRequest(f"{len(owners)} owners in one announcement; at most {MAX_OWNERS}", param="owners")
    if any(not (owner.key and owner.org) for owner in owners):
        raise InvalidRequest("an owner has a key and an org", param="owners")
    ordered = sorted(owners, key=lambda owner: owner.key)  # one order for all, or two would wait for each other
    ends = [owner.expires_at.ToDatetime(UTC) if owner.HasField("expires_at") else None for owner in ordered]
    keys = [owner.key for owner in ordered]
    await connection.execute(PUT, (keys, [o.org for o in ordered], [o.desk for o in ordered], ends))
    if external:
        await connection.execute(FORGET, (keys,))
        await connection.execute(FORGET_EXPIRED)


async def correct(connection: Connection, keys: Iterable[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Delete limits and budgets that other orgs set on these keys, and correct the desk of the rest.

    Returns:
        The deleted rows of limits and of budgets.
    """
    names = list(keys)
    taken = []
    for table in ("subject_limit", "budget"):
        entry = ENTRY.format(name="bound.name")
        await connection.execute(MOVED.format(table=table, entry=entry).encode(), (names,))
        answer = await connection.execute(FOREIGN.format(table=table, entry=entry).encode(), (names,))
        taken.append(await answer.fetchall())
    return taken[0], taken[1]


async def forget(connection: Connection, key: Subject) -> None:
    """Forget a key that came to nothing."""
    await connection.execute("delete from key_owner where key = %s and org = %s", (key.name, key.org))


async def owner_of(connection: Connection, key: Subject) -> Owner | None:
    """Return the owner of a key; None: the subject's org has no such key.

    A caller with a token belongs to the whole org, since each token contains a desk.
    """
    principal = context.caller_or_none()
    if principal and (principal.org, principal.key) == (key.org, key.name):
        return Owner(principal.org, principal.desk)
    query = OWNER.format(entry=ENTRY.format(name="%(name)s::text")).encode()
    row = await (await connection.execute(query, {"name": key.name})).fetchone()
    return Owner(row["org"], row["desk"]) if row and row["org"] == key.org else None
