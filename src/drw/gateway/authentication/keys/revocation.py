"""Revokes keys together with all keys that were created with them, and audits each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, LiteralString

from drw.gateway.authentication.tenants.queries import changed
from drw.kernel.rpc import context
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection

Row = dict[str, Any]

MAX_PASSES = 100
"""A pass finds keys that were created during the previous pass. A revoked key cannot create keys."""

# A predecessor that created its own successor had the same holder, so its created keys are revoked as well.
HOLDERS: LiteralString = """
with recursive holder (key) as (
    select %s::text
    union
    select own.predecessor from holder join key_lineage own on own.key = holder.key where own.predecessor = own.maker
)
select key from holder
"""

# Excludes the caller's key and its ancestors: a caller that revokes an ancestor of its key keeps its own key.
CREATED: LiteralString = """
with recursive excluded (key) as (
    select %(caller)s::text
    union
    select parent.key from excluded join key_lineage own on own.key = excluded.key,
        unnest(array[own.maker, own.predecessor]) as parent (key) where parent.key is not null
), created (id, within) as (
    select id, %(platform)s or (org = %(org)s and (desk = %(desk)s or %(whole)s))
    from key where created_by = any(%(creators)s) and id not in (select key from excluded) and id <> all(%(creators)s)
    union
    select key.id, %(platform)s or (org = %(org)s and (desk = %(desk)s or %(whole)s))
    from created join key on key.created_by = created.id
    where created.within and key.id not in (select key from excluded) and key.id <> all(%(creators)s)
)
select id, within from created join key using (id) where revoked_at is null and expires_at > now()
"""

REVOKE: LiteralString = """
with due as materialized (
    select number from key where id = any(%s) and revoked_at is null order by number for update
)
update key set revoked_at = now() from due where key.number = due.number returning key.*
"""


class Revocation:
    """Revokes keys in the transaction of the calling code."""

    def __init__(self, audit: AuditWriter) -> None:
        self._audit = audit

    async def revoke_children(self, key: str, connection: Connection) -> tuple[list[str], int]:
        """Revoke keys created with a key or its predecessors; see `revoke_created_by` for the result."""
        rows = await (await connection.execute(HOLDERS, (key,))).fetchall()
        return await self.revoke_created_by([row["key"] for row in rows], key, connection)

    async def revoke_created_by(
        self, creators: Sequence[str], creator: str, connection: Connection
    ) -> tuple[list[str], int]:
        """Revoke the keys that these callers created, at any depth, as far as the caller is permitted.

        Returns:
            The ids of the revoked keys, and the number of keys that the caller is not permitted to revoke.
        """
        revoked: list[str] = []
        for _ in range(MAX_PASSES):
            created = await (await connection.execute(CREATED, self._parameters(creators))).fetchall()
            ids = [row["id"] for row in created if row["within"]]
            if not ids:
                break
            rows = await (await connection.execute(REVOKE, (ids,))).fetchall()
            await self.record(rows, connection, because=f"it was created with {creator}")
            revoked += [row["id"] for row in rows]
        if revoked:
            await changed(connection)
        return sorted(revoked), sum(not row["within"] for row in created)

    async def revoke_created_by_issuer(self, issuer: str, connection: Connection) -> tuple[list[str], int]:
        """Revoke keys that callers of an issuer created; see `revoke_created_by` for the result."""
        query: LiteralString = "select distinct created_by from key where starts_with(created_by, %s)"
        rows = await (await connection.execute(query, (f"oidc:{issuer}:",))).fetchall()
        return await self.revoke_created_by([row["created_by"] for row in rows], f"a token of {issuer}", connection)

    async def record(self, rows: Sequence[Row], connection: Connection, because: str = "") -> None:
        """Write an audit record for each revoked key."""
        lines = [self._audit.line("key.revoke", f"key/{row['id']}", "ok", _details(row, because)) for row in rows]
        if lines:
            await self._audit.write(lines, connection)

    def _parameters(self, creators: Sequence[str]) -> dict[str, object]:
        principal = context.caller()
        return {
            "creators": list(creators),
            "caller": principal.key,
            "org": principal.org,
            "desk": principal.desk,
            "whole": "org:admin" in principal.scopes,
            "platform": "platform:admin" in principal.scopes,
        }


def iso_time(moment: datetime) -> str:
    """Format a time for audit records: UTC, in seconds."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _details(row: Row, because: str) -> dict[str, Any]:
    details = {name: row[name] for name in ("name", "org", "desk")} | {
        "before": {"revoked_at": None, "good_until": iso_time(row["ends_at"] or row["expires_at"])},
        "after": {"revoked_at": iso_time(row["revoked_at"])},
    }
    return details | ({"because": because} if because else {})
