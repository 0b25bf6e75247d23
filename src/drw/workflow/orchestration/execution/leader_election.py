"""Leader election: of all processes with one executor name, one executes runs; another takes over when it dies.

The leader holds an advisory lock. A leader that loses its connection but keeps running is fenced:
its later writes to a run are rejected.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from drw.kernel.errors import Unavailable
from drw.kernel.storage import advisory_lock
from drw.kernel.storage.advisory_lock import LockId
from drw.kernel.storage.database import Database
from drw.workflow.orchestration import runs
from drw.workflow.orchestration.execution.interpreter import Interpreter
from drw.workflow.orchestration.execution.run_journal import RunJournal
from drw.workflow.orchestration.execution.signals import Signals
from drw.workflow.orchestration.outbox_relay import OutboxRelay
from drw.workflow.orchestration.ports import Engine

log = logging.getLogger(__name__)

LEADER = 0x6C656164
"""Kind of the advisory lock: "lead" in ASCII."""


class LeaderElection:
    """While this process leads: starts queued runs, stops cancelled ones, and publishes events."""

    def __init__(
        self,
        executor: str,
        database: Database,
        journal: RunJournal,
        engine: Engine,
        interpreter: Interpreter,
        relay: OutboxRelay,
        signals: Signals,
    ) -> None:
        self._lock = LockId.named(LEADER, executor)
        self._database = database
        self._journal = journal
        self._engine = engine
        self._interpreter = interpreter
        self._relay = relay
        self._signals = signals
        self.is_leader = False

    async def run(self) -> None:
        """Wait for the leader lock, and lead until it is lost.

        Raises:
            Unavailable: the lock is lost; call again.
        """
        async with advisory_lock.acquired(self._database, self._lock) as lock:
            try:
                await self._engine.start(self._interpreter.run)
                self.is_leader = True
                log.info("elected leader: this process executes runs")
                await lock.run(self._dispatch_runs(), self._relay.run(), self._signals.run())
            finally:
                self.is_leader = False
                stopped = sorted(self._engine.active_runs())
                await self._engine.stop()
                with suppress(Unavailable):
                    await self._journal.release(stopped)

    def active_run_count(self) -> int:
        """Return the number of runs that this process is executing."""
        return len(self._engine.active_runs())

    async def _dispatch_runs(self) -> None:
        async for _ in self._database.notifications(runs.CHANNEL):
            for run in await self._journal.queued_runs():
                await self._engine.start_run(run)
            for run in await self._journal.ended_runs(sorted(self._engine.active_runs())):
                await self._engine.cancel_run(run)
            for run in await self._journal.undoing_runs(sorted(self._engine.active_runs())):
                self._interpreter.stop_executing(run)
