"""Key directory: the org and desk of each key, to prevent that a tenant limits a key of another tenant."""

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

PUT_OWNERS = """
insert into key_owner select * from unnest(%s::text[], %s::text[], %s::text[], %s::timestamptz[])
on conflict (key) do update set org = excluded.org, desk = excluded.desk, expires_at = excluded.expires_at
where (key_owner.org, key_owner.desk, key_owner.expires_at)
      is distinct from (excluded.org, excluded.desk, excluded.expires_at)
"""
DELETE_OTHER_EXTERNAL = """
delete from key_owner
where not key = any(%s) and (starts_with(key, 'oidc:') or starts_with(key, 'cert:'))
"""
DELETE_EXPIRED = "delete from key_owner where expires_at < now() - interval '1 day'"
OWNER_KEY = "case when starts_with({name}, 'oidc:') then 'oidc:' || split_part({name}, ':', 2) || ':' else {name} end"
"""SQL for the directory's key of a subject: all callers with tokens of one issuer share an entry."""
SELECT_OWNER = "select org, desk from key_owner where key = {owner_key}"
# Rows from releases without the directory, in which any org could set limits on any key.
DELETE_FOREIGN = """
delete from {table} bound using key_owner owner
where bound.kind = 'KEY' and owner.key = any(%s) and owner.key = {owner_key} and bound.org <> owner.org
returning bound.*
"""
UPDATE_DESK = """
update {table} bound set desk = owner.desk from key_owner owner
where bound.kind = 'KEY' and owner.key = any(%s) and owner.key = {owner_key} and bound.org = owner.org
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
    sorted_owners = sorted(owners, key=lambda owner: owner.key)  # the same lock order in all transactions: no deadlock
    ends = [owner.expires_at.ToDatetime(UTC) if owner.HasField("expires_at") else None for owner in sorted_owners]
    keys = [owner.key for owner in sorted_owners]
    await connection.execute(PUT_OWNERS, (keys, [o.org for o in sorted_owners], [o.desk for o in sorted_owners], ends))
    if external:
        await connection.execute(DELETE_OTHER_EXTERNAL, (keys,))
        await connection.execute(DELETE_EXPIRED)


async def correct_limits(
    connection: Connection, keys: Iterable[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Delete limits and budgets that other orgs set on these keys, and correct the desk of the rest.

    Returns:
        The deleted rows of limits and of budgets.
    """
    names = list(keys)
    deleted = []
    for table in ("subject_limit", "budget"):
        owner_key = OWNER_KEY.format(name="bound.name")
        await connection.execute(UPDATE_DESK.format(table=table, owner_key=owner_key).encode(), (names,))
        cursor = await connection.execute(DELETE_FOREIGN.format(table=table, owner_key=owner_key).encode(), (names,))
        deleted.append(await cursor.fetchall())
    return deleted[0], deleted[1]


async def delete_owner(connection: Connection, key: Subject) -> None:
    """Delete the entry of a key that was not created."""
    await connection.execute("delete from key_owner where key = %s and org = %s", (key.name, key.org))


async def owner_of(connection: Connection, key: Subject) -> Owner | None:
    """Return the owner of a key; None: the subject's org has no such key.

    A caller with a token belongs to the whole org, since each token contains a desk.
    """
    principal = context.caller_or_none()
    if principal and (principal.org, principal.key) == (key.org, key.name):
        return Owner(principal.org, principal.desk)
    query = SELECT_OWNER.format(owner_key=OWNER_KEY.format(name="%(name)s::text")).encode()
    row = await (await connection.execute(query, {"name": key.name})).fetchone()
    return Owner(row["org"], row["desk"]) if row and row["org"] == key.org else None
