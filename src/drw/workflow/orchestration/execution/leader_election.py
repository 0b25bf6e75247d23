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

from drw.kernel.storage.advisory_lock import LockConnection, lock_connection
from drw.kernel.storage.database import Database
from drw.workflow.orchestration import runs
from drw.workflow.orchestration.execution.interpreter import Interpreter
from drw.workflow.orchestration.execution.run_journal import RunJournal
from drw.workflow.orchestration.outbox_relay import OutboxRelay
from drw.workflow.orchestration.ports import Engine

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
TRY_LOCK = "select pg_try_advisory_lock(hashtextextended('drw.orchestration.' || %s, 0)) as taken"


class LeaderLock:
    """The advisory lock, held by at most one connection."""

    def __init__(self, dsn: str, name: str) -> None:
        self._dsn = dsn
        self._name = name

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[LockConnection]:
        """Wait for the lock, then yield the connection that holds it.

        Raises:
            Unavailable: the database does not answer.
        """
        async with lock_connection(self._dsn) as connection:
            await self._wait(connection)
            yield connection

    async def keep(self, connection: LockConnection) -> None:
        """Never return; raise `Unavailable` when the lock is lost."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await connection.check()

    async def _wait(self, connection: LockConnection) -> None:
        # Polled, because a waiting statement would hold back VACUUM.
        while True:
            if (await connection.one(TRY_LOCK, self._name))["taken"]:
                return
            await asyncio.sleep(LOOK_SECONDS)


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
