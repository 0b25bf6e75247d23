"""Queue of whole batches: to validate their file, or to store their results; a batch has one owner at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from drw.kernel.rpc import context
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.change_notifications import notify
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.sql import Jsonb
from drw.models.serving.batches.batch import NEW_WORK, Batch
from drw.models.serving.batches.queues.lease import LIMIT_IDLE, LIVE_WORKERS, LeaseLost

MAX_RETRY_SECONDS = 60
NewLine = tuple[int, str, bytes]
"""Number, custom id and body of a request."""


class JobQueue:
    """Claims batches, and records each step of them if the claim is still valid."""

    def __init__(self, database: Database, audit: AuditWriter) -> None:
        self._database = database
        self._audit = audit

    async def claim(self, worker: int) -> Batch | None:
        """Claim a batch that needs validation or storage, without requests that run; None: there is none.

        Also ends the requests of batches whose window is over, or that have a result for each request.
        """
        async with self._database.transaction() as connection:
            await connection.execute(END_REQUESTS)
            row = await (await connection.execute(CLAIM, {"worker": worker})).fetchone()
        return Batch.from_row(row) if row else None

    async def start_lines(self, job: Batch) -> None:
        """Delete the requests that an interrupted validation stored.

        Raises:
            LeaseLost: the claim is not valid any more.
        """
        async with self._database.transaction() as connection:
            await self._lock(connection, job)
            await connection.execute("delete from batch_line where batch = %s", (job.number,))

    async def add_lines(self, job: Batch, lines: Sequence[NewLine]) -> list[NewLine]:
        """Store requests; return those with a custom id that an earlier request has.

        Raises:
            LeaseLost: the claim is not valid any more.
        """
        numbers, custom_ids, requests = ([line[i] for line in lines] for i in range(3))
        async with self._database.transaction() as connection:
            await self._lock(connection, job)
            cursor = await connection.execute(ADD_LINES, (job.number, numbers, custom_ids, requests))
            added = {row["line"] for row in await cursor.fetchall()}
        return [line for line in lines if line[0] not in added]

    async def start(self, job: Batch, total: int, model: str) -> None:
        """Start the requests of a valid batch.

        Raises:
            LeaseLost: the claim is not valid any more.
        """
        async with self._database.transaction() as connection:
            await self._update(connection, START, job, {"total": total, "model": model})
            await notify(connection, NEW_WORK)

    async def fail(self, job: Batch, errors: Sequence[Mapping[str, Any]]) -> None:
        """Fail a batch whose file is invalid, or whose results cannot be stored.

        Raises:
            LeaseLost: the claim is not valid any more.
        """
        async with self._database.transaction() as connection:
            await self._update(connection, FAIL, job, {"errors": Jsonb(list(errors))})
            await connection.execute("delete from batch_line where batch = %s", (job.number,))
            await self._record(connection, job, "failed", {"code": errors[0]["code"]})

    async def end_lines(self, job: Batch) -> Batch:
        """Fail the requests without a result, so that no former owner can write one; return the batch.

        Raises:
            LeaseLost: the claim is not valid any more.
        """
        async with self._database.transaction() as connection:
            # First the requests, then the batch: the same order of locks as in the transaction of a result.
            cursor = await connection.execute(END_LINES, (job.number,))
            return await self._update(connection, COUNT_FAILED, job, {"ended": cursor.rowcount})

    async def complete(self, job: Batch, output_file: str, error_file: str) -> None:
        """Set the files of a batch and its final state, and delete its requests.

        Raises:
            LeaseLost: the claim is not valid any more.
        """
        async with self._database.transaction() as connection:
            parameters = {"output_file": output_file, "error_file": error_file}
            batch = await self._update(connection, COMPLETE, job, parameters)
            await connection.execute("delete from batch_line where batch = %s", (job.number,))
            details = {
                "output_file": output_file,
                "error_file": error_file,
                "completed": batch.completed,
                "failed": batch.failed,
            }
            await self._record(connection, batch, "ok", details)

    async def release(self, job: Batch) -> None:
        """Release a batch for a retry after 1, 2, 4, ... 60 seconds."""
        seconds = min(MAX_RETRY_SECONDS, 2 ** min(job.attempts - 1, 6))
        async with self._database.transaction() as connection:
            await connection.execute(RELEASE, {"seconds": seconds, "number": job.number, "lease": job.lease})

    async def _lock(self, connection: Connection, job: Batch) -> None:
        await self._update(connection, LOCK, job, {})

    async def _update(self, connection: Connection, query: Any, job: Batch, parameters: Mapping[str, Any]) -> Batch:
        await connection.execute(LIMIT_IDLE)
        values = {"number": job.number, "lease": job.lease, **parameters}
        if (row := await (await connection.execute(query, values)).fetchone()) is None:
            raise LeaseLost(f"another worker has {job.id!r}, or it was cancelled")
        return Batch.from_row(row)

    async def _record(self, connection: Connection, batch: Batch, outcome: str, details: Mapping[str, Any]) -> None:
        with context.acting_for(batch.files_principal):
            resource = f"batch/{batch.id}"
            details = {"state": batch.state, **details}
            await self._audit.record("batch.end", resource, outcome=outcome, details=details, connection=connection)


END_REQUESTS = """
update batch set state = 'finalizing', finalizing_at = now(), not_before = now(), attempts = 0,
    ending = case when completed + failed < total then 'expired' else 'completed' end
where state = 'in_progress' and (completed + failed >= total or expires_at <= now())
"""
CLAIM = f"""
with live as materialized ({LIVE_WORKERS}),
chosen as (
    select b.number from batch b
    left join last_claim on last_claim.org = b.org and last_claim.desk = ''
    where b.state in ('validating', 'finalizing', 'cancelling') and b.not_before <= now()
    and (b.worker is null or b.worker not in (select number from live))
    and %(worker)s in (select number from live)
    and not exists (
        select from batch_line l where l.batch = b.number and l.state = 'running'
        and l.worker in (select number from live))
    order by b.state = 'validating', last_claim.claimed_at nulls first, b.number limit 1
    for update of b skip locked)
update batch a set worker = %(worker)s, lease = nextval('lease'), attempts = attempts + 1
from chosen where a.number = chosen.number
returning a.*
"""  # noqa: S608 - constants
OWNED = "where number = %(number)s and lease = %(lease)s and state in ('validating', 'finalizing', 'cancelling')"
LOCK = f"select * from batch {OWNED} for no key update"  # noqa: S608 - constants
ADD_LINES = """
insert into batch_line (batch, line, custom_id, request)
select %s, new.* from unnest(%b::int[], %b::text[], %b::bytea[]) as new on conflict (batch, custom_id) do nothing
returning line
"""
START = f"""
update batch set state = 'in_progress', in_progress_at = now(), total = %(total)s, model = %(model)s, worker = null,
    lease = null, attempts = 0 {OWNED} returning *
"""  # noqa: S608 - constants
FAIL = f"""
update batch set state = 'failed', failed_at = now(), errors = %(errors)s, worker = null {OWNED} returning *
"""  # noqa: S608 - constants
END_LINES = """
update batch_line set state = 'failed', request = null, worker = null, lease = null
where batch = %s and state in ('pending', 'running')
"""
COUNT_FAILED = f"""
update batch set failed = failed + %(ended)s {OWNED} returning *
"""  # noqa: S608 - constants
COMPLETE = f"""
update batch set state = ending, output_file = %(output_file)s, error_file = %(error_file)s, worker = null,
    completed_at = case ending when 'completed' then now() end,
    expired_at = case ending when 'expired' then now() end,
    cancelled_at = case ending when 'cancelled' then now() end {OWNED} returning *
"""  # noqa: S608 - constants
RELEASE = f"""
update batch set worker = null, not_before = now() + %(seconds)s * interval '1 second' {OWNED}
"""  # noqa: S608 - constants
