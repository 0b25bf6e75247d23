"""Tables of the log: the inbox that all services write to, the records in order, the checkpoints."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from drw.audit.log import records
from drw.kernel.storage.database import Connection, Database

SEQUENCER_LOCK = 0x617564  # "aud"

# Rows are taken by deleting them instead of by a position, because their ids are not committed in order.
TAKE_FROM_INBOX = """
with taken as (
    delete from audit.inbox where id in (select id from audit.inbox order by id limit %s) returning id, record
)
select record from taken order by id
"""
NEXT_INDEX = """
select greatest((select coalesce(max(index) + 1, 0) from record), (select coalesce(max(size), 0) from checkpoint)) as n
"""
STATE = """
select exists (select from audit.inbox) as pending,
       (select coalesce(max(index) + 1, 0) from record) as records,
       (select coalesce(max(size), -1) from checkpoint) as signed
"""
BACKLOG = """
select count(*) as records, coalesce(extract(epoch from clock_timestamp() - min(at)), 0)::float8 as seconds
from (
    select (record::json ->> 'at')::timestamptz as at from audit.inbox
    union all
    select at from record where index >= (select coalesce(max(size), 0) from checkpoint)
) as unsigned
"""
# Much faster than inserts.
COPY_RECORDS = """
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
    """Progress of the log."""

    pending: bool
    """Whether the inbox has records."""
    records: int
    """Number of records with an index."""
    signed: int
    """Size of the newest checkpoint; -1: none."""


class Store:
    """Reads and writes the tables."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[Connection]:
        """Yield a transaction during which no other process assigns indexes or signs."""
        async with self._database.transaction() as connection:
            await connection.execute("select pg_advisory_xact_lock(%s)", (SEQUENCER_LOCK,))
            yield connection

    async def state(self, connection: Connection | None = None) -> State:
        """Return the progress of the log."""
        if connection is None:
            async with self._database.transaction() as transaction:
                return await self.state(transaction)
        row = await (await connection.execute(STATE)).fetchone()
        assert row is not None
        return State(**row)

    async def backlog(self) -> tuple[int, float]:
        """Return the number of unsigned records, and the age of the oldest in seconds."""
        row = await self._database.one(BACKLOG)
        assert row is not None
        return row["records"], max(0.0, row["seconds"])

    async def assign_indexes(self, limit: int) -> int:
        """Assign indexes to at most `limit` records of the inbox; return how many."""
        async with self.lock() as connection:
            lines = [r["record"] for r in await (await connection.execute(TAKE_FROM_INBOX, (limit,))).fetchall()]
            newest = await (await connection.execute(NEXT_INDEX)).fetchone()
            assert newest is not None
            rows = [records.row(newest["n"] + offset, line) for offset, line in enumerate(lines)]
            async with connection.cursor() as cursor, cursor.copy(COPY_RECORDS) as copy:
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
        """Store a signed checkpoint."""
        query = "insert into checkpoint (size, note) values (%s, %s) on conflict do nothing"
        await connection.execute(query, (size, note))

    async def list(self, limit: int, before: int, walls: Iterable[str], **filters: str | None) -> list[dict[str, Any]]:
        """Return the newest rows before an index that are visible inside these walls and match the filters.

        None for the desk: all desks.
        """
        parameters = {**filters, "walls": sorted(walls), "before": before, "limit": limit}
        async with self._database.transaction() as connection:
            cursor = await connection.execute(LIST, parameters)
            return await cursor.fetchall()

    async def one(self, index: int, walls: Iterable[str]) -> dict[str, Any] | None:
        """Return the row with this index, if it is visible inside these walls."""
        query = "select * from record where index = %s and inside(walls, %s::text[])"
        return await self._database.one(query, index, sorted(walls))
