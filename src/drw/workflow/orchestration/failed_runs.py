"""The failed runs of all tenants, numbered in the order of their commits, for the dead letters of error handling."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from typing import Any

from drw.kernel.storage.database import Connection, Database

CHANNEL = "orchestration_failure"
LOCK = 0x6661696C75726573
"""The advisory lock "failures": it makes the order of numbers that of commits, so that a reader misses none."""
BATCH_SIZE = 20
"""The most failures of a response: each has the inputs of its run."""

# A failed compensation comes first: it needs attention even if the run is started again.
QUERY = """
select run.*, coalesce(step.id, '') as step, coalesce(nullif(step.failure_class, ''), 'PERMANENT') as failure_class,
       coalesce(step.reason, '') as reason,
       case when step.id like '%%~undo' then run.error else coalesce(nullif(step.error, ''), run.error) end as cause,
       coalesce(step.attempts, 0) as attempts
from run left join lateral (
    select * from step where step.run = run.id and step.state = 'FAILED'
    order by id not like '%%~undo', ended_at, position limit 1
) step on true
where run.failure > %s order by run.failure limit %s
"""


async def number(connection: Connection, run: str) -> None:
    """Give a run that failed in this transaction its number."""
    await connection.execute("select pg_advisory_xact_lock(%s)", (LOCK,))
    await connection.execute(
        "with numbered as (update run set failure = nextval('run_failure') where id = %s returning id)"
        " select pg_notify(%s, '') from numbered",
        (run, CHANNEL),
    )


async def after(database: Database, number: int, wait_seconds: float) -> list[dict[str, Any]]:
    """Return the failures after a number; if there are none, wait for one up to the given time."""
    rows = await database.all(QUERY, number, BATCH_SIZE)
    if rows or not wait_seconds:
        return rows
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_seconds), aclosing(database.notifications(CHANNEL)) as notifications:
            async for _ in notifications:
                if rows := await database.all(QUERY, number, BATCH_SIZE):
                    break
    return rows
