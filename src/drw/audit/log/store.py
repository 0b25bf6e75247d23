"""The log's tables: the inbox that all services fill, the records in order, the checkpoints."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from drw.audit.log import records
from drw.kernel.storage.database import Connection, Database

SEQUENCER_LOCK = 0x617564  # "aud"

# Rows are taken by deleting them, and never by a position that was reached: numbers commit out of order.
TAKE = """
with taken as (
    delete from audit.inbox where id in (select id from audit.inbox order by id limit %s) returning id, record
)
select record from taken order by id
"""
NEXT_INDEX = """
select greatest((select coalesce(max(index) + 1, 0) from record), (select coalesce(max(size), 0) from checkpoint)) as n
"""
STATE = """
select exists (select from audit.inbox) as waiting,
       (select coalesce(max(index) + 1, 0) from record) as records,
       (select coalesce(max(size), -1) from checkpoint) as signed
"""
BEHIND = """
select count(*) as records, coalesce(extract(epoch from clock_timestamp() - min(at)), 0)::float8 as seconds
from (
    select (record::json ->> 'at')::timestamptz as at from audit.inbox
    union all
    select at from record where index >= (select coalesce(max(size), 0) from checkpoint)
) as unsigned
"""
# A fraction of the time that as many inserts take.
ADD = """
copy record (index, entry, leaf_hash, at, walls, service, action, org, desk, actor, resource, outcome, trace_id)
from stdin
"""
LIST = """
select * from record
where org = %(org)s and inside(walls, %(walls)s::text[])
  and (%(desk)s::text is null or desk = %(desk)s) and index < %(before)s
  and (%(action)s = '' or action = %(action)s) and (%(actor)s = '' or actor = %(actor)s)
  and (%(resource)s = '' or resource = %(resource)s) and (%(outcome)s = '' or outcome = %(outcome)s)
order by index desc limit %(limit)s
"""


@dataclass(frozen=True, slots=True)
class State:
    """How far the log is."""

    waiting: bool
    """Whether the inbox has something."""
    records: int
    signed: int
    """The size of the newest checkpoint; -1: none."""


class Store:
    """Reads and writes the tables."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[Connection]:
        """Give a transaction during which no other process sequences or signs."""
        async with self._database.transaction() as connection:
            await connection.execute("select pg_advisory_xact_lock(%s)", (SEQUENCER_LOCK,))
            yield connection

    async def state(self, connection: Connection | None = None) -> State:
        """Return how far the log is."""
        if connection is None:
            async with self._database.transaction() as own:
                return await self.state(own)
        row = await (await connection.execute(STATE)).fetchone()
        assert row is not None
        return State(**row)

    async def backlog(self) -> tuple[int, float]:
        """Return how many records are not signed yet, and the age of the oldest in seconds."""
        row = await self._database.one(BEHIND)
        assert row is not None
        return row["records"], max(0.0, row["seconds"])

    async def take(self, limit: int) -> int:
        """Give at most `limit` records of the inbox their places; return how many there were."""
        async with self.lock() as connection:
            lines = [r["record"] for r in await (await connection.execute(TAKE, (limit,))).fetchall()]
            newest = await (await connection.execute(NEXT_INDEX)).fetchone()
            assert newest is not None
            rows = [records.row(newest["n"] + offset, line) for offset, line in enumerate(lines)]
            async with connection.cursor() as cursor, cursor.copy(ADD) as copy:
                for row in rows:
                    await copy.write_row([row[column] for column in records.COLUMNS])
        return len(lines)

    async def rows(self, start: int, end: int, connection: Connection | None = None) -> list[dict[str, Any]]:
        """Return the rows with these indexes, in order."""
        query = "select * from record where index >= %s and index < %s order by index"
        if connection is None:
            return await self._database.all(query, start, end)
        return await (await connection.execute(query, (start, end))).fetchall()

    async def add_checkpoint(self, connection: Connection, size: int, note: str) -> None:
        """Keep a signed checkpoint."""
        query = "insert into checkpoint (size, note) values (%s, %s) on conflict do nothing"
        await connection.execute(query, (size, note))

    async def list(self, limit: int, before: int, walls: Iterable[str], **filters: str | None) -> list[dict[str, Any]]:
        """Return the newest rows before an index that are visible inside these walls and match the filters.

        None for the desk: all desks.
        """
        named = {**filters, "walls": sorted(walls), "before": before, "limit": limit}
        async with self._database.transaction() as connection:
            answer = await connection.execute(LIST, named)
            return await answer.fetchall()

    async def one(self, index: int, walls: Iterable[str]) -> dict[str, Any] | None:
        """Return the row with this index, where it is seen from inside these walls."""
        query = "select * from record where index = %s and inside(walls, %s::text[])"
        return await self._database.one(query, index, sorted(walls))
