"""Aliases in PostgreSQL, and the time at which each model was first configured."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from typing import Any

from drw.api.models.v1.discovery_pb2 import Alias, WeightedTarget
from drw.kernel.errors import InvalidRequest
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.sql import Jsonb
from drw.models.discovery.aliases import MAX_ALIASES, audit_details

CHANNEL = "discovery_aliases_changed"
SELECT = "select name, targets, fallbacks, total_seconds from alias"


class AliasStore:
    """Reads and changes stored aliases. Each change writes an audit record with the state before and after."""

    def __init__(self, database: Database, audit: AuditWriter) -> None:
        self._database = database
        self._audit = audit

    async def all(self) -> list[Alias]:
        """Return all stored aliases."""
        return [_alias(row) for row in await self._database.all(f"{SELECT} order by name")]

    async def first_seen(self, models: Iterable[str]) -> dict[str, int]:
        """Return the Unix seconds at which each model was first configured; the present for a new model."""
        async with self._database.transaction() as connection:
            await connection.execute(
                "insert into model (id) select unnest(%s::text[]) on conflict do nothing", ([*models],)
            )
        rows = await self._database.all("select id, extract(epoch from first_seen)::bigint as at from model")
        return {row["id"]: row["at"] for row in rows}

    def changes(self) -> AsyncGenerator[None, None]:
        """Yield once at the start and after each change."""
        return self._database.notifications(CHANNEL)

    async def put(self, alias: Alias, configured: Alias | None) -> None:
        """Create or replace a stored alias; `configured` was effective if none was stored."""
        async with self._database.transaction() as connection:
            before = await self._lock(connection, alias.name)
            if before is None:
                row = await (await connection.execute("select count(*) as n from alias")).fetchone()
                if row and row["n"] >= MAX_ALIASES:
                    raise InvalidRequest(f"there are {row['n']} aliases, which is the maximum: delete one first")
            targets = {target.model: target.weight for target in alias.targets}
            await connection.execute(
                """
                insert into alias (name, targets, fallbacks, total_seconds) values (%s, %s, %s, %s)
                on conflict (name) do update set targets = excluded.targets, fallbacks = excluded.fallbacks,
                    total_seconds = excluded.total_seconds, changed_at = now()
                """,
                (alias.name, Jsonb(targets), Jsonb(list(alias.fallbacks)), alias.total_seconds),
            )
            await self._record_change(connection, "set", alias.name, before or configured, alias)

    async def delete(self, name: str, configured: Alias | None) -> bool:
        """Delete a stored alias; return whether it existed. `configured` becomes effective."""
        async with self._database.transaction() as connection:
            if (before := await self._lock(connection, name)) is None:
                return False
            await connection.execute("delete from alias where name = %s", (name,))
            await self._record_change(connection, "delete", name, before, configured)
        return True

    async def _lock(self, connection: Connection, name: str) -> Alias | None:
        """Lock the name until the end of the transaction; return its stored alias, if it exists."""
        await connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"alias/{name}",))
        row = await (await connection.execute(f"{SELECT} where name = %s", (name,))).fetchone()
        return _alias(row) if row else None

    async def _record_change(
        self, connection: Connection, action: str, name: str, before: Alias | None, after: Alias | None
    ) -> None:
        details = {"before": audit_details(before), "after": audit_details(after)}
        await self._audit.record(f"alias.{action}", f"alias/{name}", details=details, connection=connection)
        await connection.execute(f"notify {CHANNEL}".encode())


def _alias(row: dict[str, Any]) -> Alias:
    targets = [WeightedTarget(model=model, weight=weight) for model, weight in row["targets"].items()]
    return Alias(name=row["name"], targets=targets, fallbacks=row["fallbacks"], total_seconds=row["total_seconds"])
