"""What operators make by name, in PostgreSQL: one table a kind; every change with its audit record."""

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


class TooMany(Conflict):
    """There are as many as a data plane should have."""


@dataclass(frozen=True, slots=True)
class ResourceKind(Generic[M]):
    """A kind of records: its message, its word in the audit trail, which is its table's name, and its channel."""

    message: type[M]
    word: str
    channel: str


class ResourceStore(Generic[M]):
    """The records of one kind; the table has the columns name, definition, changed_at and changed_by."""

    def __init__(self, kind: ResourceKind[M], database: Database, audit: AuditWriter) -> None:
        self._kind = kind
        self._database = database
        self._audit = audit

    async def all(self) -> list[M]:
        """Return all records, sorted by name."""
        async with self._database.transaction() as connection:
            cursor = await connection.execute(self._sql("select definition from {table} order by name"))
            return [from_json(row["definition"], self._kind.message) for row in await cursor.fetchall()]

    def changes(self) -> AsyncGenerator[None, None]:
        """Yield at once, and after each change."""
        return self._database.notifications(self._kind.channel)

    async def put(self, name: str, record: M) -> None:
        """Keep a record, in place of one of its name.

        Raises:
            TooMany: it would be one too many.
        """
        async with self._database.transaction() as connection:
            before = await self._before(name, connection)
            after = to_json(record)
            if before is None and await self._count(connection) >= MAX_RESOURCES:
                raise TooMany(f"there are {MAX_RESOURCES} {self._kind.word}s already: delete one first")
            await connection.execute(self._sql(PUT), (name, Jsonb(after), context.caller().key))
            await self._tell("set", name, {"before": before, "after": after}, connection)

    async def delete(self, name: str) -> bool:
        """Take a record away; return whether it was there."""
        async with self._database.transaction() as connection:
            if (before := await self._before(name, connection)) is None:
                return False
            await connection.execute(self._sql("delete from {table} where name = %s"), (name,))
            await self._tell("delete", name, {"before": before, "after": None}, connection)
        return True

    async def _before(self, name: str, connection: Connection) -> object | None:
        # One change after the other, so that what the record calls before was really there.
        await connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (self._kind.channel,))
        cursor = await connection.execute(self._sql("select definition from {table} where name = %s"), (name,))
        row = await cursor.fetchone()
        return row["definition"] if row else None

    async def _count(self, connection: Connection) -> int:
        row = await (await connection.execute(self._sql("select count(*) as n from {table}"))).fetchone()
        return row["n"] if row else 0

    async def _tell(self, verb: str, name: str, details: dict[str, object], connection: Connection) -> None:
        word = self._kind.word
        await self._audit.record(f"{word}.{verb}", f"{word}/{name}", details=details, connection=connection)
        await connection.execute(SQL("notify {}").format(Identifier(self._kind.channel)))

    def _sql(self, query: LiteralString) -> Composed:
        return SQL(query).format(table=Identifier(self._kind.word))


PUT = """
insert into {table} (name, definition, changed_by) values (%s, %s, %s)
on conflict (name) do update
set definition = excluded.definition, changed_at = now(), changed_by = excluded.changed_by
"""
