"""The ledger in PostgreSQL: one row for each attempt at a call, written before the answer is acknowledged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import orjson

from drw.billing.ledger.rows import Row
from drw.kernel.errors import Unavailable
from drw.kernel.storage import audit
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.group_commit import GroupCommit
from drw.kernel.storage.sql import DatabaseError

BATCH = 500
ADD = """
insert into metering.ledger select * from jsonb_populate_recordset(null::metering.ledger, %s::jsonb)
on conflict (id) do nothing returning id
"""
ADD_RECORDED = " ".join(("with recorded as (", audit.INSERT, "), added as (", ADD, ") select id from added"))
# What a process says of a call that was settled in its place: the difference, once. Its reservation is gone by then,
# so that what it says beyond is charged to nobody.
CORRECT = """
insert into metering.ledger
select new.id || '/late', new.at, new.org, new.desk, new.key, new.model, new.upstream,
       new.route, new.prompt_tokens - stored.prompt_tokens, new.completion_tokens - stored.completion_tokens,
       new.prompt_price, new.completion_price, least(0, new.cost - stored.cost),
       new.excess + greatest(0, new.cost - stored.cost), 'correction',
       new.counted_by, false,
       new_sum.tokens - stored_sum.tokens
       - least(0, new_sum.tokens - new.excess_tokens - stored_sum.tokens + stored.excess_tokens)
from jsonb_populate_recordset(null::metering.ledger, %s::jsonb) as new join metering.ledger as stored using (id),
     lateral (select new.prompt_tokens + new.completion_tokens as tokens) new_sum,
     lateral (select stored.prompt_tokens + stored.completion_tokens as tokens) stored_sum
where stored.counted_by = 'written_ahead' and (new.cost, new.prompt_tokens, new.completion_tokens)
      is distinct from (stored.cost, stored.prompt_tokens, stored.completion_tokens)
on conflict (id) do nothing returning id
"""


@dataclass(slots=True)
class Written:
    """One write of a call."""

    rows: Sequence[Row]
    record: str
    new: bool = True
    """Whether none of the rows was there before."""


class Ledger:
    """Writes rows in batches, each row once: one statement writes the rows and audit records that wait together."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._batches = GroupCommit(self._write)

    async def put(self, rows: Sequence[Row], record: str = "") -> bool:
        """Return when the rows are durable. A row that exists stays, and a difference is added as a correction.

        False: one existed already, and what it says counts.

        With them goes the audit record of the call, where there is one: `AuditWriter.line`.

        Raises:
            Unavailable: the database does not answer; nothing may be acknowledged.
        """
        written = Written(rows, record)
        try:
            await self._batches.put(written)
        except DatabaseError as refused:
            what = "the ledger and the audit record cannot be written, so there is no answer"
            raise Unavailable(what, part="postgres") from refused
        return written.new

    async def rows(self, ids: Iterable[str]) -> list[Row]:
        """Return the rows with these ids."""
        rows = await self._database.all("select * from metering.ledger where id = any(%s) order by id", list(ids))
        return [Row(**row) for row in rows]

    async def unposted(self, max_rows: int = BATCH) -> list[Row]:
        """Return rows that the counters may not have."""
        query = "select * from metering.ledger where not posted order by id limit %s"
        return [Row(**row) for row in await self._database.all(query, max_rows)]

    async def mark_posted(self, ids: Sequence[str]) -> None:
        """Mark rows as counted."""
        await self._database.run("update metering.ledger set posted = true where id = any(%s)", list(ids))

    async def unpost(self, ids: Sequence[str]) -> None:
        """Mark rows as not counted."""
        await self._database.run("update metering.ledger set posted = false where id = any(%s)", list(ids))

    async def add_holder(self, process: str) -> None:
        """Record that a process holds reservations."""
        query = "insert into metering.holder (id) values (%s) on conflict (id) do update set seen = clock_timestamp()"
        await self._database.run(query, process)

    async def remove_holder(self, process: str) -> None:
        """Record that a process holds none any more."""
        await self._database.run("delete from metering.holder where id = %s", process)

    async def holders(self) -> set[str]:
        """Return the processes that may hold reservations."""
        return {row["id"] for row in await self._database.all("select id from metering.holder")}

    async def _write(self, calls: Sequence[Written]) -> None:
        rows = {row.id: row for call in calls for row in call.rows}
        records = [call.record for call in calls if call.record]
        query, args = (ADD_RECORDED, [records]) if records else (ADD, [])
        added = {row["id"] for row in await self._database.fetch(query, *args, dump(rows.values()))}
        if late := [row for id, row in rows.items() if id not in added]:
            await self._database.fetch(CORRECT, dump(late))
        for call in calls:
            call.new = all(row.id in added for row in call.rows)


async def add(connection: Connection, rows: Iterable[Row]) -> set[str]:
    """Add rows as part of a transaction; return the ids of those that were not there."""
    answer = await connection.execute(ADD, (dump(rows),))
    return {row["id"] for row in await answer.fetchall()}


def dump(rows: Iterable[Row]) -> str:
    """Return rows as PostgreSQL reads them."""
    return orjson.dumps(list(rows)).decode()
