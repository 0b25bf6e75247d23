"""Queue of the requests of batches: fair between orgs and desks; each request has one result.

A worker claims requests in a short transaction, with a new fencing token each. The result is written together with the
charge of the call, and only by the owner of the newest token: a worker that was frozen writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from drw.kernel.storage.change_notifications import notify
from drw.kernel.storage.database import Connection, Database
from drw.models.serving.batches.batch import NEW_WORK, Batch
from drw.models.serving.batches.queues.lease import LIMIT_IDLE, LIVE_WORKERS, LeaseLost

CLAIM_LOCK = 0x62617463686C6E73
"""The advisory lock "batchlns": it serialises claims, so that each claim sees the turns of the previous ones."""
Outcome = Literal["completed", "failed"]
USAGE = {
    "input_tokens": "prompt_tokens",
    "output_tokens": "completion_tokens",
    "cached_tokens": "cached_tokens",
    "reasoning_tokens": "reasoning_tokens",
}
"""Columns of a batch, mapped to the details of a call record."""


@dataclass(frozen=True, slots=True)
class Line:
    """A claimed request of a batch."""

    batch: Batch
    line: int
    """Its line in the file, from 1."""
    custom_id: str
    request: bytes
    """The body of the request."""
    attempts: int
    interruptions: int
    lease: int
    """The fencing token of the claim."""

    @property
    def id(self) -> str:
        """The id of the request in the output, the same for each attempt."""
        return f"batch_req_{self.batch.id.removeprefix('batch_')}_{self.line}"

    @property
    def fence(self) -> dict[str, int]:
        """The parameters of `OWNED`."""
        return {"batch": self.batch.number, "line": self.line, "lease": self.lease}


class LineQueue:
    """Claims and finishes requests, in turns of orgs and then of desks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, worker: int, limit: int) -> list[Line]:
        """Claim up to `limit` requests of one batch that no live worker runs; none if the worker has no lease."""
        async with self._database.transaction() as connection:
            await connection.execute(LIMIT_IDLE)
            await connection.execute("select pg_advisory_xact_lock(%s)", (CLAIM_LOCK,))
            if (row := await (await connection.execute(CHOOSE, {"worker": worker})).fetchone()) is None:
                return []
            batch = Batch.from_row(row)
            parameters = {"worker": worker, "batch": batch.number, "limit": limit}
            rows = await (await connection.execute(CLAIM, parameters)).fetchall()
            await connection.execute(RECORD_CLAIM, (batch.org, batch.desk, batch.org))
        return sorted((_line(batch, row) for row in rows), key=lambda line: line.line)

    async def finish(
        self,
        line: Line,
        outcome: Outcome,
        response: bytes,
        usage: Mapping[str, Any],
        connection: Connection | None = None,
    ) -> None:
        """Write the result of a request: the line of the output or error file.

        Args:
            line: the claimed request.
            outcome: in which of the files the result is.
            response: the result.
            usage: the details of the call record, with its token counts.
            connection: the transaction that charges the call; by default its own transaction.

        Raises:
            LeaseLost: another worker owns the request now.
        """
        if connection is None:
            async with self._database.transaction() as own:
                await self.finish(line, outcome, response, usage, own)
            return
        values = {
            "state": outcome,
            "response": response,
            "bytes": len(response),
            "completed": int(outcome == "completed"),
            "failed": int(outcome == "failed"),
            **{column: int(usage.get(detail) or 0) for column, detail in USAGE.items()},
            **line.fence,
        }
        await connection.execute(LIMIT_IDLE)
        row = await (await connection.execute(FINISH, values)).fetchone()
        if row is None:
            raise LeaseLost(f"another worker runs line {line.line} of {line.batch.id!r}")
        if row["is_last"]:
            await notify(connection, NEW_WORK)

    async def release(self, line: Line, seconds: float, *, pause_batch: bool) -> None:
        """Release a request for another attempt after a delay; with `pause_batch` the whole batch waits as well."""
        async with self._database.transaction() as connection:
            await connection.execute(RELEASE, {"seconds": seconds, **line.fence})
            if pause_batch:
                await connection.execute(PAUSE, (seconds, line.batch.number))


def _line(batch: Batch, row: Mapping[str, Any]) -> Line:
    columns = ("line", "custom_id", "request", "attempts", "interruptions", "lease")
    return Line(batch, **{name: row[name] for name in columns})


CLAIMABLE = """
((l.state = 'pending' and l.not_before <= now())
 or (l.state = 'running' and (l.worker is null or l.worker not in (select number from live))))
"""
CHOOSE = f"""
with live as materialized ({LIVE_WORKERS})
select b.* from batch b
left join last_claim as org_claim on org_claim.org = b.org and org_claim.desk = ''
left join last_claim as desk_claim on desk_claim.org = b.org and desk_claim.desk = b.desk
where b.state = 'in_progress' and b.not_before <= now() and b.expires_at > now()
and %(worker)s in (select number from live)
and exists (select from batch_line l where l.batch = b.number and l.state in ('pending', 'running') and {CLAIMABLE})
order by org_claim.claimed_at nulls first, desk_claim.claimed_at nulls first, b.number limit 1
"""  # noqa: S608 - constants
CLAIM = f"""
with live as materialized ({LIVE_WORKERS}),
chosen as (
    select l.batch, l.line from batch_line l
    where l.batch = %(batch)s and l.state in ('pending', 'running') and {CLAIMABLE}
    order by l.line limit %(limit)s for update skip locked)
update batch_line a set worker = %(worker)s, lease = nextval('lease'), attempts = attempts + 1,
    interruptions = interruptions + (a.state = 'running')::int, state = 'running'
from chosen where a.batch = chosen.batch and a.line = chosen.line
returning a.*
"""  # noqa: S608 - constants
RECORD_CLAIM = """
insert into last_claim (org, desk, claimed_at) values (%s, %s, clock_timestamp()), (%s, '', clock_timestamp())
on conflict (org, desk) do update set claimed_at = excluded.claimed_at
"""
OWNED = "where batch = %(batch)s and line = %(line)s and lease = %(lease)s and state = 'running'"
# With the schema: the transaction of a charge has another search path.
FINISH = f"""
with finished as (
    update serving.batch_line set state = %(state)s, response = %(response)s, request = null, worker = null {OWNED}
    returning batch)
update serving.batch b set completed = completed + %(completed)s, failed = failed + %(failed)s,
    output_bytes = output_bytes + %(bytes)s, input_tokens = input_tokens + %(input_tokens)s,
    cached_tokens = cached_tokens + %(cached_tokens)s, output_tokens = output_tokens + %(output_tokens)s,
    reasoning_tokens = reasoning_tokens + %(reasoning_tokens)s
from finished where b.number = finished.batch
returning b.completed + b.failed >= b.total or b.state <> 'in_progress' as is_last
"""  # noqa: S608 - constants
RELEASE = f"""
update batch_line set state = 'pending', worker = null, not_before = now() + %(seconds)s * interval '1 second' {OWNED}
"""  # noqa: S608 - constants
PAUSE = """
update batch set not_before = greatest(not_before, now() + %s * interval '1 second')
where number = %s and state = 'in_progress'
"""
