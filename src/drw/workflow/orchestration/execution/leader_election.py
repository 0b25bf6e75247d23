"""Leader election: of all processes with one name, one executes runs; another takes over when it dies.

The leader holds an advisory lock on a dedicated connection. PostgreSQL releases it as soon as the process dies,
so that no lease has to expire. If a leader loses the connection but lives on, the fencing token of each run
rejects its writes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import psycopg

from drw.kernel.errors import Unavailable
from drw.kernel.storage.database import Database
from drw.workflow.orchestration import runs
from drw.workflow.orchestration.execution.interpreter import Interpreter
from drw.workflow.orchestration.execution.run_journal import RunJournal
from drw.workflow.orchestration.outbox_relay import OutboxRelay
from drw.workflow.orchestration.ports import Engine

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
ANSWER_SECONDS = 5.0


class LeaderLock:
    """The advisory lock, held by at most one connection."""

    def __init__(self, dsn: str, name: str) -> None:
        self._dsn = dsn
        self._name = name

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Wait for the lock, then yield the connection that holds it.

        Raises:
            Unavailable: the database does not answer.
        """
        try:
            async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as connection:
                await self._wait(connection)
                yield connection
        except psycopg.OperationalError as error:
            raise Unavailable("the database does not answer", part="postgres") from error

    async def keep(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Never return; raise `Unavailable` or `psycopg.OperationalError` when the lock is lost."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await connection.execute("select 1")
            except TimeoutError as error:
                raise Unavailable("the database does not answer", part="postgres") from error

    async def _wait(self, connection: psycopg.AsyncConnection[Any]) -> None:
        # Polled, because a waiting statement would hold back VACUUM.
        while True:
            if await self._free(connection):
                return
            await asyncio.sleep(LOOK_SECONDS)

    async def _free(self, connection: psycopg.AsyncConnection[Any]) -> bool:
        cursor = await connection.execute(
            "select pg_try_advisory_lock(hashtextextended('drw.orchestration.' || %s, 0))", (self._name,)
        )
        row = await cursor.fetchone()
        return bool(row and row[0])


class LeaderElection:
    """While this process leads: starts queued runs, stops cancelled ones, publishes events."""

    def __init__(
        self,
        seat: LeaderLock,
        database: Database,
        progress: RunJournal,
        engine: Engine,
        interpreter: Interpreter,
        relay: OutboxRelay,
    ) -> None:
        self._seat = seat
        self._database = database
        self._progress = progress
        self._engine = engine
        self._interpreter = interpreter
        self._relay = relay
        self.leads = False

    async def run(self) -> None:
        """Wait for leadership, and lead until it is lost.

        Raises:
            Unavailable: leadership is lost; call again.
        """
        async with self._seat.taken() as connection:
            try:
                await self._engine.start(self._interpreter.run)
                self.leads = True
                log.info("this process carries out the runs")
                await _until_one_ends(self._seat.keep(connection), self._dispatch(), self._relay.run())
            finally:
                self.leads = False
                await self._engine.stop()

    def under_way(self) -> int:
        """Return the number of runs that this process is executing."""
        return len(self._engine.under_way())

    async def _dispatch(self) -> None:
        async for _ in self._database.notifications(runs.CHANNEL):
            for run in await self._progress.queued():
                await self._engine.begin(run)
            for run in await self._progress.ended(sorted(self._engine.under_way())):
                await self._engine.cancel(run)


async def _until_one_ends(*work: Coroutine[Any, Any, None]) -> None:
    tasks = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
