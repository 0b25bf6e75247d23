"""Leader election: of all processes with one executor name, one executes runs; another takes over when it dies.

The leader holds an advisory lock. A leader that loses its connection and lives on is fenced: each run rejects what
it still writes.
"""

from __future__ import annotations

import logging

from drw.kernel.storage import advisory_lock
from drw.kernel.storage.advisory_lock import LockId
from drw.kernel.storage.database import Database
from drw.workflow.orchestration import runs
from drw.workflow.orchestration.execution.interpreter import Interpreter
from drw.workflow.orchestration.execution.run_journal import RunJournal
from drw.workflow.orchestration.outbox_relay import OutboxRelay
from drw.workflow.orchestration.ports import Engine

log = logging.getLogger(__name__)

LEADER = 0x6C656164
"""The kind of the advisory lock: "lead"."""


class LeaderElection:
    """While this process leads: starts queued runs, stops cancelled ones, and publishes events."""

    def __init__(
        self,
        executor: str,
        database: Database,
        progress: RunJournal,
        engine: Engine,
        interpreter: Interpreter,
        relay: OutboxRelay,
    ) -> None:
        self._lock = LockId.named(LEADER, executor)
        self._database = database
        self._progress = progress
        self._engine = engine
        self._interpreter = interpreter
        self._relay = relay
        self.leads = False

    async def run(self) -> None:
        """Wait for the leader lock, and lead until it is lost.

        Raises:
            Unavailable: the lock is lost; call again.
        """
        async with advisory_lock.acquired(self._database, self._lock) as lock:
            try:
                await self._engine.start(self._interpreter.run)
                self.leads = True
                log.info("this process carries out the runs")
                await lock.run(self._dispatch(), self._relay.run())
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
