"""Store of routes and upstreams in PostgreSQL: one table for each kind, an audit record for each change."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Generic, LiteralString, TypeVar

from google.protobuf.message import Message

from drw.kernel.errors import Conflict
from drw.kernel.rpc import context
from drw.kernel.rpc.json_messages import from_json, to_json
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.sql import SQL, Composed, Identifier, Jsonb

M = TypeVar("M", bound=Message)

MAX_RESOURCES = 500


class TooManyResources(Conflict):
    """The number of resources of a kind has reached `MAX_RESOURCES`, which bounds the size of data planes."""


@dataclass(frozen=True, slots=True)
class ResourceKind(Generic[M]):
    """A kind of resource."""

    message: type[M]
    name: str
    """The table, and the name in audit records, as in "route"."""
    channel: str
    """The channel of notifications in PostgreSQL."""


class ResourceStore(Generic[M]):
    """Repository of the resources of one kind.

    The table has the columns name, definition, changed_at and changed_by.
    """

    def __init__(self, kind: ResourceKind[M], database: Database, audit: AuditWriter) -> None:
        self._kind = kind
        self._database = database
        self._audit = audit

    async def all(self) -> list[M]:
        """Return all resources, sorted by name."""
        async with self._database.transaction() as connection:
            cursor = await connection.execute(self._sql("select definition from {table} order by name"))
            return [from_json(row["definition"], self._kind.message) for row in await cursor.fetchall()]

    def changes(self) -> AsyncGenerator[None, None]:
        """Yield immediately, and after each change."""
        return self._database.notifications(self._kind.channel)

    async def put(self, name: str, resource: M) -> None:
        """Create a resource, or replace the resource of this name.

        Raises:
            TooManyResources: the number of resources has reached the maximum.
        """
        async with self._database.transaction() as connection:
            before = await self._lock_and_get(name, connection)
            after = to_json(resource)
            if before is None and await self._count(connection) >= MAX_RESOURCES:
                raise TooManyResources(f"there are {MAX_RESOURCES} {self._kind.name}s already: delete one first")
            await connection.execute(self._sql(PUT), (name, Jsonb(after), context.caller().key))
            await self._record("set", name, {"before": before, "after": after}, connection)

    async def delete(self, name: str) -> bool:
        """Delete a resource; return whether it existed."""
        async with self._database.transaction() as connection:
            if (before := await self._lock_and_get(name, connection)) is None:
                return False
            await connection.execute(self._sql("delete from {table} where name = %s"), (name,))
            await self._record("delete", name, {"before": before, "after": None}, connection)
        return True

    async def _lock_and_get(self, name: str, connection: Connection) -> object | None:
        # Serialises changes, so that the audit record contains the correct previous state.
        await connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (self._kind.channel,))
        cursor = await connection.execute(self._sql("select definition from {table} where name = %s"), (name,))
        row = await cursor.fetchone()
        return row["definition"] if row else None

    async def _count(self, connection: Connection) -> int:
        row = await (await connection.execute(self._sql("select count(*) as n from {table}"))).fetchone()
        return row["n"] if row else 0

    async def _record(self, verb: str, name: str, details: dict[str, object], connection: Connection) -> None:
        """Write the audit record of a change, and notify watchers."""
        kind = self._kind.name
        await self._audit.record(f"{kind}.{verb}", f"{kind}/{name}", details=details, connection=connection)
        await connection.execute(SQL("notify {}").format(Identifier(self._kind.channel)))

    def _sql(self, query: LiteralString) -> Composed:
        return SQL(query).format(table=Identifier(self._kind.name))


PUT = """
insert into {table} (name, definition, changed_by) values (%s, %s, %s)
on conflict (name) do update
set definition = excluded.definition, changed_at = now(), changed_by = excluded.changed_by
"""
