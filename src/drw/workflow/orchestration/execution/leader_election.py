"""Of all processes of one name, lets one carry out runs; another takes over when that one is gone.

Who leads holds an advisory lock on a connection of its own: PostgreSQL frees it the moment the process dies,
so nobody waits for a lease to run out. Where a leader loses the connection and lives on, the fence of each
run refuses what it still writes.
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
    """The lead itself: at most one connection has it."""

    def __init__(self, dsn: str, name: str) -> None:
        self._dsn = dsn
        self._name = name

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Wait until nobody else has the lead, then give the connection that has it.

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
        """Return never; raise `Unavailable` or `psycopg.OperationalError` when the lead is lost."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await connection.execute("select 1")
            except TimeoutError as error:
                raise Unavailable("the database does not answer", part="postgres") from error

    async def _wait(self, connection: psycopg.AsyncConnection[Any]) -> None:
        # Asked again and again: a statement that waits would keep the database from clearing old rows away.
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
    """While this process leads: begins what is queued, stops what is cancelled, shows what happens."""

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
        """Wait for the lead, and lead until it is lost.

        Raises:
            Unavailable: it is lost; call again.
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
        """Return how many runs this process carries out at this moment."""
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
