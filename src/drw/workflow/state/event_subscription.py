"""Event subscriptions: follow one run from any event to its end, across losses of the live view."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from google.protobuf.timestamp_pb2 import Timestamp

from drw.api.workflow.v1.state_pb2 import RunEvent
from drw.kernel import walls
from drw.kernel.errors import NotFound, Unavailable
from drw.kernel.rpc.context import Principal
from drw.workflow.state.event_log import EventLog
from drw.workflow.state.ports import LiveView, RunKey
from drw.workflow.state.settings import Settings

ENDS = frozenset({"succeeded", "failed", "cancelled"})


class EventSubscriptions:
    """The live view, backed by the event log."""

    def __init__(self, view: LiveView, history: EventLog, settings: Settings) -> None:
        self._view = view
        self._history = history
        self._settings = settings

    async def publish(self, key: RunKey, event: RunEvent) -> None:
        """Store an event and publish it.

        Raises:
            Unavailable: the live view does not answer, or an earlier event of the run is missing.
        """
        await self._history.keep(key, event)
        if not await self._view.append(key, event):
            await self._restore(key)
            if not await self._view.append(key, event):
                raise Unavailable(f"the event before {event.event_id} of {key.run!r} is not here yet: send it first")
        if _ends_run(event):
            await self._view.forget_later(key, self._settings.keep_ended_seconds)

    async def watch(self, key: RunKey, caller: Principal, number: int) -> AsyncIterator[RunEvent]:
        """Yield the events after this number until the run ends.

        Raises:
            NotFound: the desk has no such run, or the caller is outside one of its walls.
            Unavailable: the live view does not answer.
        """
        await self._found(key, caller)
        spoke = time.monotonic()
        while True:
            events = await self._view.after(key, number, self._settings.wait_seconds)
            for event in events:
                yield event
                number, spoke = int(event.event_id), time.monotonic()
                if _ends_run(event):
                    return
            if not events and await self._over(key):
                return
            if time.monotonic() - spoke > self._settings.quiet_seconds:
                yield _still_there(key)
                spoke = time.monotonic()

    async def _over(self, key: RunKey) -> bool:
        newest = await self._view.newest(key)
        if newest is None:
            await self._restore(key)
        return newest is not None and _ends_run(newest)

    async def _found(self, key: RunKey, caller: Principal) -> None:
        """Wait until the run exists. A run inside other walls behaves like a missing one and takes as long."""
        deadline = time.monotonic() + self._settings.appear_seconds
        while True:
            newest = await self._view.newest(key)
            if newest is None and await self._restore(key):
                newest = await self._view.newest(key)
            if newest is not None and walls.inside(newest.walls, caller):
                return
            left = deadline - time.monotonic()
            if left <= 0:
                raise NotFound(f"there is no run {key.run!r}")
            await self._next(key, hidden=newest is not None, seconds=min(left, 0.25))

    async def _next(self, key: RunKey, *, hidden: bool, seconds: float) -> None:
        if hidden:  # its events exist already, so that the view would not wait
            await asyncio.sleep(seconds)
        else:
            await self._view.after(key, 0, seconds)

    async def _restore(self, key: RunKey) -> bool:
        events = await self._history.of(key)
        await self._view.restore(key, events)
        if events and _ends_run(events[-1]):
            await self._view.forget_later(key, self._settings.keep_ended_seconds)
        return bool(events)


def _ends_run(event: RunEvent) -> bool:
    return not event.step and event.state in ENDS


def _still_there(key: RunKey) -> RunEvent:
    now = Timestamp()
    now.GetCurrentTime()
    return RunEvent(run=key.run, org=key.org, desk=key.desk, state="waiting", at=now)
