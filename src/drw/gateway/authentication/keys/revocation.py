"""Revokes keys together with all that were made with them, and records each."""

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
"""A key that is made meanwhile is found in the next pass; a maker that is revoked makes none."""

# A predecessor that made its own successor had the same holder, so what it made goes too.
HOLDERS: LiteralString = """
with recursive held (key) as (
    select %s::text
    union
    select own.predecessor from held join key_lineage own on own.key = held.key where own.predecessor = own.maker
)
select key from held
"""

# The caller, and all that it descends from: whoever revokes the key from which its own came does not end itself.
MADE: LiteralString = """
with recursive spared (key) as (
    select %(caller)s::text
    union
    select parent.key from spared join key_lineage own on own.key = spared.key,
        unnest(array[own.maker, own.predecessor]) as parent (key) where parent.key is not null
), made (id, within) as (
    select id, %(platform)s or (org = %(org)s and (desk = %(desk)s or %(whole)s))
    from key where created_by = any(%(makers)s) and id not in (select key from spared) and id <> all(%(makers)s)
    union
    select key.id, %(platform)s or (org = %(org)s and (desk = %(desk)s or %(whole)s))
    from made join key on key.created_by = made.id where made.within and key.id not in (select key from spared)
        and key.id <> all(%(makers)s)
)
select id, within from made join key using (id) where revoked_at is null and expires_at > now()
"""

REVOKE: LiteralString = """
with due as materialized (
    select number from key where id = any(%s) and revoked_at is null order by number for update
)
update key set revoked_at = now() from due where key.number = due.number returning key.*
"""


class Revocation:
    """Revokes within a transaction of its caller."""

    def __init__(self, audit: AuditWriter) -> None:
        self._audit = audit

    async def revoke_children(self, key: str, connection: Connection) -> tuple[list[str], int]:
        """Revoke keys created with a key or its predecessors; return as `made_by` does."""
        rows = await (await connection.execute(HOLDERS, (key,))).fetchall()
        return await self.revoke_created_by([row["key"] for row in rows], key, connection)

    async def revoke_created_by(
        self, makers: Sequence[str], whose: str, connection: Connection
    ) -> tuple[list[str], int]:
        """Revoke the keys that these callers created, at any depth, as far as the caller is permitted.

        Returns the ids of the revoked keys, and the number of keys that the caller is not permitted to revoke.
        """
        done: list[str] = []
        for _ in range(MAX_PASSES):
            created = await (await connection.execute(MADE, self._parameters(makers))).fetchall()
            ids = [row["id"] for row in created if row["within"]]
            if not ids:
                break
            rows = await (await connection.execute(REVOKE, (ids,))).fetchall()
            await self.record(rows, connection, because=f"it was made with {whose}")
            done += [row["id"] for row in rows]
        if done:
            await changed(connection)
        return sorted(done), sum(not row["within"] for row in created)

    async def revoke_created_by_issuer(self, issuer: str, connection: Connection) -> tuple[list[str], int]:
        """Revoke keys that callers of an issuer created; return as `made_by` does."""
        query: LiteralString = "select distinct created_by from key where starts_with(created_by, %s)"
        rows = await (await connection.execute(query, (f"oidc:{issuer}:",))).fetchall()
        return await self.revoke_created_by([row["created_by"] for row in rows], f"a token of {issuer}", connection)

    async def record(self, rows: Sequence[Row], connection: Connection, because: str = "") -> None:
        """Write an audit record of each key that was revoked."""
        lines = [self._audit.line("key.revoke", f"key/{row['id']}", "ok", _details(row, because)) for row in rows]
        if lines:
            await self._audit.write(lines, connection)

    def _parameters(self, makers: Sequence[str]) -> dict[str, object]:
        principal = context.caller()
        return {
            "makers": list(makers),
            "caller": principal.key,
            "org": principal.org,
            "desk": principal.desk,
            "whole": "org:admin" in principal.scopes,
            "platform": "platform:admin" in principal.scopes,
        }


def iso_time(moment: datetime) -> str:
    """Return a time as the audit trail has it."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _details(row: Row, because: str) -> dict[str, Any]:
    details = {name: row[name] for name in ("name", "org", "desk")} | {
        "before": {"revoked_at": None, "good_until": iso_time(row["ends_at"] or row["expires_at"])},
        "after": {"revoked_at": iso_time(row["revoked_at"])},
    }
    return details | ({"because": because} if because else {})
