"""Says which workers live, by a lock that PostgreSQL drops with the connection of whoever held it.

A job names the worker that has it. When a process dies, in whatever way, its connection closes, its
workers' locks are gone, and their jobs are free at once: no lease to wait for, no clock to trust.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from drw.kernel.storage.advisory_lock import LockConnection, lock_connection

KIND = 0x646F63  # "doc": the first half of the lock's name, the worker's number is the second

LIVING = """
select objid::bigint from pg_locks where locktype = 'advisory' and classid = 6582115 and objsubid = 2
and database = (select oid from pg_database where datname = current_database())
"""
"""The numbers of the workers that live."""


class WorkerLiveness:
    """One worker, alive while its connection is."""

    def __init__(self, number: int, connection: LockConnection) -> None:
        self.number = number
        self._connection = connection

    async def check(self) -> None:
        """Raise `Unavailable` where the connection, and with it the lock, is gone."""
        await self._connection.check()


@asynccontextmanager
async def worker(dsn: str, schema: str) -> AsyncIterator[WorkerLiveness]:
    """Be a worker for as long as the block lasts.

    Raises:
        Unavailable: the database does not answer.
    """
    async with lock_connection(dsn, schema) as connection:
        row = await connection.one("select (nextval('worker') %% 2147483647)::int as number")
        await connection.one("select pg_advisory_lock(%s, %s)", KIND, row["number"])
        yield WorkerLiveness(row["number"], connection)
