"""Session-level advisory locks of PostgreSQL, for leader election and for the liveness of workers.

Each lock has a dedicated connection outside the pool. PostgreSQL releases the lock when the connection ends, so that
another process takes over from a dead one immediately. A frozen process keeps its connection and its locks: a fence
must reject its writes after it wakes, and a worker needs a lease that expires.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from drw.kernel.storage.database import Connection, Database, database_unavailable

POLL_SECONDS = 1.0
HEARTBEAT_SECONDS = 1.0
TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class LockId:
    """The two 32-bit keys of an advisory lock: the kind of lock, and one lock of this kind."""

    kind: int
    number: int

    @classmethod
    def named(cls, kind: int, name: str) -> LockId:
        """Return the lock of a kind for a name."""
        return cls(kind, int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], signed=True))


class AdvisoryLock:
    """A lock that is held until its connection ends."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def execute(self, query: LiteralString, *args: Any) -> None:
        """Run a statement on the connection of the lock.

        Raises:
            Unavailable: the connection, and with it the lock, is lost.
        """
        try:
            await self._connection.execute(query, args)
        except psycopg.OperationalError as error:
            raise database_unavailable() from error

    async def run(self, *work: Coroutine[Any, Any, None]) -> None:
        """Run coroutines together until the first one ends or the lock is lost; the others are cancelled then.

        Raises:
            Unavailable: the connection, and with it the lock, is lost.
        """
        tasks = [asyncio.create_task(coroutine) for coroutine in (self._watch(), *work)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            await self.execute("select 1")


@asynccontextmanager
async def acquired(database: Database, lock: LockId) -> AsyncIterator[AdvisoryLock]:
    """Wait for a lock and hold it for the block.

    Raises:
        Unavailable: the database does not respond.
    """
    async with database.dedicated_connection(TIMEOUT_SECONDS) as connection:
        # Polled: a statement that waits would prevent PostgreSQL from vacuuming old rows.
        while not await _try_acquire(connection, lock):  # noqa: ASYNC110 - another process holds it
            await asyncio.sleep(POLL_SECONDS)
        try:
            yield AdvisoryLock(connection)
        finally:
            # Released explicitly: PostgreSQL notices a closed connection a moment later.
            with suppress(psycopg.OperationalError):
                await connection.execute("select pg_advisory_unlock(%s, %s)", (lock.kind, lock.number))


async def _try_acquire(connection: Connection, lock: LockId) -> bool:
    cursor = await connection.execute("select pg_try_advisory_lock(%s, %s) as held", (lock.kind, lock.number))
    return bool((await cursor.fetchone() or {})["held"])


def holders_query(kind: int) -> str:
    """Return a query for the numbers of all held locks of a kind, as column `number`."""
    return f"""
        select objid::bigint as number from pg_locks
        where locktype = 'advisory' and granted and classid = {kind:d} and objsubid = 2
        and database = (select oid from pg_database where datname = current_database())"""  # noqa: S608 - a number
