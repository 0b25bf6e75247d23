"""The records of aliases in PostgreSQL, and since when each model is known."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from typing import Any

from drw.api.models.v1.discovery_pb2 import Alias, WeightedTarget
from drw.kernel.errors import InvalidRequest
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.sql import Jsonb
from drw.models.discovery.aliases import MAX_ALIASES, shown

CHANNEL = "discovery_aliases_changed"
SELECT = "select name, targets, fallbacks, total_seconds from alias"


class AliasStore:
    """Reads and changes the records; each change leaves an audit record with what was before and what is after."""

    def __init__(self, database: Database, audit: AuditWriter) -> None:
        self._database = database
        self._audit = audit

    async def all(self) -> list[Alias]:
        """Return every record."""
        return [_alias(row) for row in await self._database.all(f"{SELECT} order by name")]

    async def since(self, models: Iterable[str]) -> dict[str, int]:
        """Return when each model was first here, in Unix seconds: now, for a new one."""
        async with self._database.transaction() as connection:
            await connection.execute(
                "insert into model (id) select unnest(%s::text[]) on conflict do nothing", ([*models],)
            )
        rows = await self._database.all("select id, extract(epoch from first_seen)::bigint as at from model")
        return {row["id"]: row["at"] for row in rows}

    def changes(self) -> AsyncGenerator[None, None]:
        """Yield at once, and after each change."""
        return self._database.notifications(CHANNEL)

    async def put(self, alias: Alias, setting: Alias | None) -> None:
        """Write a record in place of the one before; `setting` is what counts where there was none."""
        async with self._database.transaction() as connection:
            before = await self._locked(connection, alias.name)
            if before is None:
                await self._check_room(connection)
            targets = {target.model: target.weight for target in alias.targets}
            await connection.execute(
                """
                insert into alias (name, targets, fallbacks, total_seconds) values (%s, %s, %s, %s)
                on conflict (name) do update set targets = excluded.targets, fallbacks = excluded.fallbacks,
                    total_seconds = excluded.total_seconds, changed_at = now()
                """,
                (alias.name, Jsonb(targets), Jsonb(list(alias.fallbacks)), alias.total_seconds),
            )
            await self._changed(connection, "set", alias.name, before or setting, alias)

    async def delete(self, name: str, setting: Alias | None) -> bool:
        """Delete a record; return whether there was one. `setting` is what counts afterwards."""
        async with self._database.transaction() as connection:
            if (before := await self._locked(connection, name)) is None:
                return False
            await connection.execute("delete from alias where name = %s", (name,))
            await self._changed(connection, "delete", name, before, setting)
        return True

    async def _locked(self, connection: Connection, name: str) -> Alias | None:
        """Return the record, which nobody else changes until the transaction ends; also where there is none yet."""
        await connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"alias/{name}",))
        row = await (await connection.execute(f"{SELECT} where name = %s", (name,))).fetchone()
        return _alias(row) if row else None

    async def _check_room(self, connection: Connection) -> None:
        row = await (await connection.execute("select count(*) as n from alias")).fetchone()
        if row and row["n"] >= MAX_ALIASES:
            raise InvalidRequest(f"there are {row['n']} aliases, which is the most there can be: delete one first")

    async def _changed(
        self, connection: Connection, action: str, name: str, before: Alias | None, after: Alias | None
    ) -> None:
        details = {"before": shown(before), "after": shown(after)}
        await self._audit.record(f"alias.{action}", f"alias/{name}", details=details, connection=connection)
        await connection.execute(f"notify {CHANNEL}".encode())


def _alias(row: dict[str, Any]) -> Alias:
    targets = [WeightedTarget(model=model, weight=weight) for model, weight in row["targets"].items()]
    return Alias(name=row["name"], targets=targets, fallbacks=row["fallbacks"], total_seconds=row["total_seconds"])
