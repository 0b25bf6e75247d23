"""Session-level advisory locks of PostgreSQL, for leader election and for the liveness of workers.

Each lock has a dedicated connection outside the pool. PostgreSQL releases the lock when the connection ends, so that
another process takes over from a dead one immediately. A frozen process, or one behind a broken network, keeps its
connection. With a lease, PostgreSQL ends a connection that is silent for that long (`idle_session_timeout`). The holder
then has to stop by its own clock, and a fence must reject what it still writes.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
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
    """A lock that is held until its connection ends, or its lease expires."""

    def __init__(self, connection: Connection, acquired_at: float, lease_seconds: float | None = None) -> None:
        self._connection = connection
        self._lease_seconds = lease_seconds
        self._expires_at = acquired_at + lease_seconds if lease_seconds else None

    def has_expired(self) -> bool:
        """Return whether another process may hold the lock by now."""
        return self._expires_at is not None and time.monotonic() >= self._expires_at

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
        seconds = self._lease_seconds
        while True:
            await asyncio.sleep(min(HEARTBEAT_SECONDS, seconds / 4) if seconds else HEARTBEAT_SECONDS)
            sent_at = time.monotonic()
            await self.execute("select 1")
            if self.has_expired():  # work may have been refused in the meantime
                raise database_unavailable()
            if seconds:
                self._expires_at = sent_at + seconds


@asynccontextmanager
async def acquired(database: Database, lock: LockId, lease_seconds: float | None = None) -> AsyncIterator[AdvisoryLock]:
    """Wait for a lock and hold it for the block.

    With a lease, the work of the block must be inside of `AdvisoryLock.run`, which renews it.

    Raises:
        Unavailable: the database does not respond.
    """
    seconds = min(TIMEOUT_SECONDS, lease_seconds / 2) if lease_seconds else TIMEOUT_SECONDS
    async with database.dedicated_connection(seconds) as connection:
        if lease_seconds:
            milliseconds = str(round(lease_seconds * 1000))
            await connection.execute("select set_config('idle_session_timeout', %s, false)", (milliseconds,))
        asked_at = time.monotonic()
        # Polled: a statement that waits would prevent PostgreSQL from vacuuming old rows.
        while not await _try_acquire(connection, lock):
            await asyncio.sleep(min(POLL_SECONDS, seconds))
            asked_at = time.monotonic()
        try:
            yield AdvisoryLock(connection, asked_at, lease_seconds)
        finally:
            # Released explicitly: PostgreSQL notices a closed connection a moment later.
            await _release(connection, lock)


@asynccontextmanager
async def try_acquired(database: Database, lock: LockId) -> AsyncIterator[bool]:
    """Yield whether the lock is held for the block: False if another process holds it.

    Raises:
        Unavailable: the database does not respond.
    """
    async with database.dedicated_connection(TIMEOUT_SECONDS) as connection:
        held = await _try_acquire(connection, lock)
        try:
            yield held
        finally:
            if held:
                await _release(connection, lock)


async def _try_acquire(connection: Connection, lock: LockId) -> bool:
    cursor = await connection.execute("select pg_try_advisory_lock(%s, %s) as held", (lock.kind, lock.number))
    return bool((await cursor.fetchone() or {})["held"])


async def _release(connection: Connection, lock: LockId) -> None:
    with suppress(psycopg.OperationalError):
        await connection.execute("select pg_advisory_unlock(%s, %s)", (lock.kind, lock.number))


def holders_query(kind: int) -> str:
    """Return a query for the numbers of all held locks of a kind, as column `number`."""
    return f"""
        select objid::bigint as number from pg_locks
        where locktype = 'advisory' and granted and classid = {kind:d} and objsubid = 2
        and database = (select oid from pg_database where datname = current_database())"""  # noqa: S608 - a number
