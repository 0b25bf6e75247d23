"""The ledger in PostgreSQL: one row for each attempt at a call, written before the answer is acknowledged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from drw.billing.attempts import AttemptHistory
from drw.billing.counters import Charge, Posting
from drw.billing.subjects import of_call, of_model
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
select wanted.id || '/late', wanted.at, wanted.org, wanted.desk, wanted.key, wanted.model, wanted.upstream,
       wanted.route, wanted.prompt_tokens - held.prompt_tokens, wanted.completion_tokens - held.completion_tokens,
       wanted.prompt_price, wanted.completion_price, least(0, wanted.cost - held.cost),
       wanted.excess + greatest(0, wanted.cost - held.cost), 'correction',
       wanted.counted_by, false,
       wants.tokens - has.tokens - least(0, wants.tokens - wanted.excess_tokens - has.tokens + held.excess_tokens)
from jsonb_populate_recordset(null::metering.ledger, %s::jsonb) wanted join metering.ledger held using (id),
     lateral (select wanted.prompt_tokens + wanted.completion_tokens as tokens) wants,
     lateral (select held.prompt_tokens + held.completion_tokens as tokens) has
where held.counted_by = 'written_ahead' and (wanted.cost, wanted.prompt_tokens, wanted.completion_tokens)
      is distinct from (held.cost, held.prompt_tokens, held.completion_tokens)
on conflict (id) do nothing returning id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one attempt at a call took and cost; see the migration for the units."""

    id: str
    at: datetime
    org: str
    desk: str
    key: str
    model: str
    upstream: str = ""
    route: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_price: int = 0
    completion_price: int = 0
    cost: int = 0
    excess: int = 0
    outcome: str
    counted_by: str
    posted: bool = True
    excess_tokens: int = 0

    def charges(self) -> list[Charge]:
        """Return what each of its subjects spent."""
        tokens = self.prompt_tokens + self.completion_tokens - self.excess_tokens
        subjects = (*of_call(self.org, self.desk, self.key), of_model(self.model))
        return [(subject, self.cost, tokens) for subject in subjects]

    def posting(self) -> Posting:
        """Return it as the counters count it."""
        return self.id, self.at.timestamp() * 1000, self.charges()


@dataclass(slots=True)
class Written:
    """What is written of one call."""

    rows: Sequence[Row]
    record: str
    new: bool = True
    """Whether none of the rows was there before."""


class Ledger:
    """Writes rows: those that wait at one moment in one statement with their audit records, and each row once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._batches = GroupCommit(self._write)

    async def put(self, rows: Sequence[Row], record: str = "") -> bool:
        """Return when the rows are there for good; one that is there already stays, and a difference is corrected.

        False: one was there already, so that `rows` says what counts.

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
        found = await self._database.all("select * from metering.ledger where id = any(%s) order by id", list(ids))
        return [as_row(row) for row in found]

    async def unposted(self, most: int = BATCH) -> list[Row]:
        """Return rows that the counters may not know of."""
        found = await self._database.all("select * from metering.ledger where not posted order by id limit %s", most)
        return [as_row(row) for row in found]

    async def mark_posted(self, ids: Sequence[str]) -> None:
        """Say that the counters know of these rows."""
        await self._database.run("update metering.ledger set posted = true where id = any(%s)", list(ids))

    async def unpost(self, ids: Sequence[str]) -> None:
        """Say that the counters do not know of these rows after all."""
        await self._database.run("update metering.ledger set posted = false where id = any(%s)", list(ids))

    async def hold(self, process: str) -> None:
        """Say that a process holds reservations, or still does."""
        query = "insert into metering.holder (id) values (%s) on conflict (id) do update set seen = clock_timestamp()"
        await self._database.run(query, process)

    async def let_go(self, process: str) -> None:
        """Say that a process holds nothing any more."""
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


def as_row(found: dict[str, Any]) -> Row:
    """Return a row of the table."""
    return Row(**found)


def settled(
    id: str,
    course: AttemptHistory,
    *,
    at_ms: float,
    most: int,
    most_tokens: int | None = None,
    outcome: str,
    counted_by: str,
    posted: bool = True,
) -> list[Row]:
    """Return the rows that settle a reservation of `most` nano-dollars and so many tokens: one for each attempt.

    What the attempts took beyond the reservation is charged to nobody, and stands in `excess` and `excess_tokens`.
    """
    tokens_left = sum(attempt.tokens for attempt in course.attempts) if most_tokens is None else most_tokens
    at, left, rows = datetime.fromtimestamp(at_ms / 1000, UTC), most, []
    for number, attempt in enumerate(course.attempts):
        cost = min(attempt.cost, left)
        left -= cost
        tokens = min(attempt.tokens, tokens_left)
        tokens_left -= tokens
        rows.append(
            Row(
                id=f"{id}.{number}" if number else id,
                at=at,
                org=course.org,
                desk=course.desk,
                key=course.key,
                model=attempt.model,
                upstream=attempt.upstream,
                route=course.route,
                prompt_tokens=attempt.prompt_tokens if attempt.started else 0,
                completion_tokens=attempt.completion_tokens if attempt.started else 0,
                prompt_price=attempt.price.prompt,
                completion_price=attempt.price.completion,
                cost=cost,
                excess=attempt.cost - cost,
                outcome=outcome,
                counted_by=counted_by if attempt.started else "nothing",
                posted=posted,
                excess_tokens=attempt.tokens - tokens,
            )
        )
    return rows


def total(rows: Iterable[Row]) -> list[Charge]:
    """Return what the subjects of these rows spent, each once."""
    sums: dict[Any, tuple[int, int]] = {}
    for row in rows:
        for subject, nano, tokens in row.charges():
            before = sums.get(subject, (0, 0))
            sums[subject] = before[0] + nano, before[1] + tokens
    return [(subject, nano, tokens) for subject, (nano, tokens) in sums.items()]
