"""Leases of workers: a dead worker loses its jobs immediately, a frozen worker when its lease expires.

A worker holds an advisory lock, which PostgreSQL releases when the process dies, and a lease with an expiry, which a
heartbeat extends. Both use one connection for each worker, outside the pool. The schema of the service has the table
`worker (number int primary key, lease_expires_at timestamptz not null)` and the sequence `worker_number`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from drw.kernel.errors import Unavailable
from drw.kernel.storage import advisory_lock
from drw.kernel.storage.advisory_lock import AdvisoryLock, LockId
from drw.kernel.storage.database import Database

LEASE_SECONDS = 30.0
HEARTBEAT_SECONDS = 5.0
MAX_RECORD_DAYS = 1
"""Age after which the record of a dead worker is deleted."""

EXTEND = """
insert into worker (number, lease_expires_at) values (%s, clock_timestamp() + %s * interval '1 second')
on conflict (number) do update set lease_expires_at = excluded.lease_expires_at
"""
DELETE_EXPIRED = "delete from worker where lease_expires_at < clock_timestamp() - %s * interval '1 day'"


def live_workers(kind: int) -> str:
    """Return a query for the numbers of the workers that hold their lock of this kind and an unexpired lease."""
    return f"""
select worker.number from worker join ({advisory_lock.holders_query(kind)}) as held using (number)
where worker.lease_expires_at > clock_timestamp()
"""  # noqa: S608 - a number


class WorkerLease:
    """The lease of one worker."""

    def __init__(self, number: int, lock: AdvisoryLock) -> None:
        self.number = number
        self._lock = lock

    async def extend(self) -> None:
        """Extend the lease by `LEASE_SECONDS`.

        Raises:
            Unavailable: the connection, and with it the lock, is lost.
        """
        await self._lock.execute(EXTEND, self.number, LEASE_SECONDS)

    async def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a worker and extend its lease; cancel the worker if the lock is lost.

        Raises:
            Unavailable: the connection, and with it the lock, is lost.
        """
        await self._lock.run(self._heartbeat(), work)

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            await self.extend()


@asynccontextmanager
async def acquired(database: Database, kind: int) -> AsyncIterator[WorkerLease]:
    """Register a worker and hold its lease for the block; `kind` is the class of the service's advisory locks.

    Raises:
        Unavailable: the database does not answer.
    """
    row = await database.one("select (nextval('worker_number') %% 2147483647)::int as number")
    if row is None:
        raise Unavailable("the database gives no number for a worker", part="postgres")
    async with advisory_lock.acquired(database, LockId(kind, row["number"])) as lock:
        await lock.execute(DELETE_EXPIRED, MAX_RECORD_DAYS)
        lease = WorkerLease(row["number"], lock)
        await lease.extend()
        yield lease
