"""State of running experiments of aliases and rollouts, streamed to serving."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from drw.api.models.v1.experiments_pb2 import Arm, RoutedExperiment, Routing
from drw.kernel.storage.database import Database
from drw.models.experiments.recording.call_events import CallEvents
from drw.models.experiments.rollouts.store import RolloutStore
from drw.models.experiments.store import ExperimentStore, StoredExperiment

CHANNEL = "experiments_routing"
BACKLOG_SECONDS = 5.0
"""Interval in which the backlog of exposures is checked."""
RENEWALS = 3
"""States are sent at least this often within their time of validity."""


class RoutingFeed:
    """The present state, which all watchers share. `clock` is in Unix seconds."""

    def __init__(
        self,
        database: Database,
        experiments: ExperimentStore,
        rollouts: RolloutStore,
        events: CallEvents,
        seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._experiments = experiments
        self._rollouts = rollouts
        self._events = events
        self._seconds = seconds
        self._clock = clock
        self._state: Routing | None = None
        self._is_behind = False
        self._changed = asyncio.Event()

    async def watch(self) -> AsyncIterator[Routing]:
        """Yield the present state, and each new one."""
        while True:
            changed = self._changed
            if self._state is not None:
                yield self._state
            await changed.wait()

    async def follow(self) -> None:
        """Read the state after each change, and again before it expires."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_changes())
            tasks.create_task(self._renew())
            tasks.create_task(self._watch_backlog())

    async def refresh(self) -> None:
        """Read the state, and pass it to the watchers. While too many exposures wait to be read, nothing is routed."""
        routing = Routing(expires_at=int(self._clock() + self._seconds))
        self._is_behind = await self._events.is_behind()
        if not self._is_behind:
            running = [stored for stored in await self._experiments.running() if stored.experiment.alias]
            routing.experiments.extend(map(_routed, running))
            routing.rollouts.extend(await self._rollouts.routed())
        self._state = routing
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _follow_changes(self) -> None:
        async with aclosing(self._database.notifications(CHANNEL)) as changes:
            async for _ in changes:
                await self.refresh()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._seconds / RENEWALS)
            await self.refresh()

    async def _watch_backlog(self) -> None:
        while True:
            await asyncio.sleep(BACKLOG_SECONDS)
            if await self._events.is_behind() != self._is_behind:
                await self.refresh()


def _routed(stored: StoredExperiment) -> RoutedExperiment:
    experiment = stored.experiment
    return RoutedExperiment(
        key=stored.key,
        org=stored.org,
        desk=stored.desk,
        walls=experiment.walls,
        name=experiment.name,
        alias=experiment.alias,
        unit=experiment.unit,
        seed=experiment.seed,
        traffic_percent=experiment.traffic_percent,
        arms=[Arm(name=arm.name, weight=arm.weight, treatment=arm.treatment) for arm in experiment.arms],
    )
