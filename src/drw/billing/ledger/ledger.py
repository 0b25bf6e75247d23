"""Ledger in PostgreSQL: one row for each attempt of a call, written before the response is acknowledged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

import orjson

from drw.billing.ledger.rows import Row
from drw.kernel.errors import Unavailable
from drw.kernel.storage import audit
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.group_commit import GroupCommit
from drw.kernel.storage.sql import DatabaseError

MAX_UNPOSTED = 500
INSERT = """
insert into metering.ledger select * from jsonb_populate_recordset(null::metering.ledger, %s::jsonb)
on conflict (id) do nothing returning id
"""
INSERT_WITH_AUDIT = " ".join(("with recorded as (", audit.INSERT, "), added as (", INSERT, ") select id from added"))
INSERT_WITH_EVENTS = INSERT_WITH_AUDIT.replace("with ", f"with sent as ({audit.INSERT_EVENTS}), ", 1)
# Correction of a call that the reaper has settled: the difference to the row of the process, once. Its reservation has
# ended, so that usage beyond the settled amount is not charged.
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


InCommit = Callable[[Connection], Awaitable[None]]
"""Writes of a caller that are part of the transaction of a settlement; they name their schema in each statement."""


@dataclass(slots=True)
class LedgerWrite:
    """Rows and audit record of one call."""

    rows: Sequence[Row]
    record: str
    new: bool = True
    """Whether none of the rows existed before."""


class Ledger:
    """Writes rows idempotently in batches: one statement writes all waiting rows and audit records."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._batches = GroupCommit(self._write)

    async def put(self, rows: Sequence[Row], record: str = "") -> bool:
        """Write the rows of a call and its audit record (`AuditWriter.line`), with an event if it has one, durably.

        An existing row stays; a difference is added as a correction. Returns False if a row existed, which then counts.

        Raises:
            Unavailable: the database does not respond; the caller must not acknowledge anything.
        """
        write = LedgerWrite(rows, record)
        try:
            await self._batches.put(write)
        except DatabaseError as error:
            message = "the ledger and the audit record cannot be written, so there is no answer"
            raise Unavailable(message, part="postgres") from error
        return write.new

    async def put_with(self, rows: Sequence[Row], record: str, in_commit: InCommit) -> bool:
        """Write like `put`, in one transaction with the writes of the caller: all of them are durable, or none.

        Raises what `in_commit` raises, and:
            Unavailable: the database does not respond.
        """
        async with self._database.transaction() as connection:
            added = await add(connection, rows)
            if existing := [row for row in rows if row.id not in added]:
                await connection.execute(CORRECT, (dump(existing),))
            if record:
                await audit.insert(connection, [record])
            await in_commit(connection)
        return len(added) == len(rows)

    async def rows(self, ids: Iterable[str]) -> list[Row]:
        """Return the rows with these ids."""
        rows = await self._database.all("select * from metering.ledger where id = any(%s) order by id", list(ids))
        return [Row(**row) for row in rows]

    async def unposted(self, max_rows: int = MAX_UNPOSTED) -> list[Row]:
        """Return rows that are not marked as posted to the counters."""
        query = "select * from metering.ledger where not posted order by id limit %s"
        return [Row(**row) for row in await self._database.all(query, max_rows)]

    async def mark_posted(self, ids: Sequence[str]) -> None:
        """Mark rows as posted to the counters."""
        await self._database.run("update metering.ledger set posted = true where id = any(%s)", list(ids))

    async def unpost(self, ids: Sequence[str]) -> None:
        """Mark rows as not posted to the counters."""
        await self._database.run("update metering.ledger set posted = false where id = any(%s)", list(ids))

    async def add_holder(self, process: str) -> None:
        """Record that a process can have reservations."""
        query = "insert into metering.holder (id) values (%s) on conflict (id) do update set seen = clock_timestamp()"
        await self._database.run(query, process)

    async def remove_holder(self, process: str) -> None:
        """Record that a process has no reservations."""
        await self._database.run("delete from metering.holder where id = %s", process)

    async def holders(self) -> set[str]:
        """Return the processes that can have reservations."""
        return {row["id"] for row in await self._database.all("select id from metering.holder")}

    async def _write(self, calls: Sequence[LedgerWrite]) -> None:
        rows = {row.id: row for call in calls for row in call.rows}
        records = [call.record for call in calls if call.record]
        query, args = (INSERT_WITH_AUDIT, [records]) if records else (INSERT, [])
        if events := audit.events_of(records):
            query, args = INSERT_WITH_EVENTS, [*events, records]
        added = {row["id"] for row in await self._database.fetch(query, *args, dump(rows.values()))}
        if existing := [row for id, row in rows.items() if id not in added]:
            await self._database.fetch(CORRECT, dump(existing))
        for call in calls:
            call.new = all(row.id in added for row in call.rows)


async def add(connection: Connection, rows: Iterable[Row]) -> set[str]:
    """Insert rows as part of a transaction; return the ids of those that did not exist."""
    cursor = await connection.execute(INSERT, (dump(rows),))
    return {row["id"] for row in await cursor.fetchall()}


def dump(rows: Iterable[Row]) -> str:
    """Serialise rows as JSON for PostgreSQL."""
    return orjson.dumps(list(rows)).decode()
