"""Leader election: one process executes the runs of each executor name, and another takes over when it dies.

The leader holds an advisory lock with a lease. Processes with the same name are standbys. A leader also takes over the
runs of names that no process leads. A leader that is frozen or loses its connection is fenced: its later writes to a
run are rejected, and it calls no other service.

One of the leaders is the coordinator, which publishes the events of all runs and deletes expired ones.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from drw.kernel.errors import Unavailable
from drw.kernel.storage import advisory_lock
from drw.kernel.storage.advisory_lock import LockId
from drw.kernel.storage.database import Database
from drw.workflow.orchestration import runs
from drw.workflow.orchestration.execution.interpreter import Interpreter
from drw.workflow.orchestration.execution.journal.run_journal import RunJournal
from drw.workflow.orchestration.execution.journal.signals import Signals
from drw.workflow.orchestration.execution.lease import Lease
from drw.workflow.orchestration.outbox_relay import OutboxRelay
from drw.workflow.orchestration.ports import Engine

log = logging.getLogger(__name__)

LEADER = 0x6C656164
"""Kind of the advisory lock of an executor name: "lead" in ASCII."""
COORDINATOR = LockId(0x636F6F72, 0)
"""The lock of the coordinator: "coor" in ASCII."""
TAKEOVER_SECONDS = 1.0
"""Interval of the search for runs without a leader."""
CLAIM_SIZE = 20
"""Queued runs that a leader takes at once; the other leaders take the next ones meanwhile."""


class LeaderElection:
    """While this process leads: starts queued runs, stops cancelled ones, takes over those of dead processes."""

    def __init__(
        self,
        executor: str,
        lease_seconds: float,
        database: Database,
        journal: RunJournal,
        engine: Engine,
        interpreter: Interpreter,
        relay: OutboxRelay,
        signals: Signals,
        lease: Lease,
        retention: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._executor = executor
        self._lease_seconds = lease_seconds
        self._database = database
        self._journal = journal
        self._engine = engine
        self._interpreter = interpreter
        self._relay = relay
        self._signals = signals
        self._lease = lease
        self._retention = retention
        self.is_leader = False
        self.is_coordinator = False

    async def run(self) -> None:
        """Wait for the leader lock, and lead until it is lost.

        Raises:
            Unavailable: the lock is lost; call again.
        """
        lock_id = _lock_of(self._executor)
        async with advisory_lock.acquired(self._database, lock_id, self._lease_seconds) as lock:
            self._lease.lock = lock
            stopped_on_purpose = False
            try:
                await lock.run(self._start())
                await lock.run(self._dispatch_runs(), self._take_over_runs(), self._coordinate(), self._signals.run())
            except asyncio.CancelledError:
                stopped_on_purpose = True
                raise
            finally:
                self.is_leader = False
                stopped = sorted(self._engine.active_runs())
                await self._engine.stop()
                self._lease.lock = None
                if stopped_on_purpose:
                    with suppress(Unavailable):
                        await self._journal.release(stopped)

    def active_run_count(self) -> int:
        """Return the number of runs that this process is executing."""
        return len(self._engine.active_runs())

    async def _start(self) -> None:
        await self._journal.fence_runs(self._executor)
        await self._engine.start(self._interpreter.run)
        self.is_leader = True
        log.info("elected leader: this process executes runs")

    async def _dispatch_runs(self) -> None:
        async for _ in self._database.notifications(runs.CHANNEL):
            while claimed := await self._journal.claim_runs(CLAIM_SIZE):
                for run in claimed:
                    await self._engine.start_run(run)
            for run in await self._journal.ended_runs(sorted(self._engine.active_runs())):
                await self._engine.cancel_run(run)
            for run in await self._journal.undoing_runs(sorted(self._engine.active_runs())):
                self._interpreter.stop_executing(run)

    async def _take_over_runs(self) -> None:
        """Recover runs of executor names whose leader has died, and that have no standby."""
        while True:
            for executor in await self._journal.executors_without_leader(LEADER):
                async with advisory_lock.try_acquired(self._database, _lock_of(executor)) as held:
                    if held:  # a process of this name cannot start in the meantime
                        log.warning("taking over the runs of %r", executor)
                        await self._journal.fence_runs(executor)
                        await self._engine.recover_runs(executor)
            await asyncio.sleep(TAKEOVER_SECONDS)

    async def _coordinate(self) -> None:
        while True:
            with suppress(Unavailable):
                async with advisory_lock.acquired(self._database, COORDINATOR, self._lease_seconds) as lock:
                    self.is_coordinator = True
                    try:
                        await lock.run(self._relay.run(), self._retention())
                    finally:
                        self.is_coordinator = False
            await asyncio.sleep(1)


def _lock_of(executor: str) -> LockId:
    return LockId.named(LEADER, executor)
