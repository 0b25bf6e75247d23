"""Event subscriptions: follow one run from any event to its end, also when the live view loses data."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from drw.api.workflow.v1.state_pb2 import RunEvent
from drw.kernel import walls
from drw.kernel.errors import NotFound, Unavailable
from drw.kernel.rpc.context import Principal
from drw.workflow.state.event_log import EventLog
from drw.workflow.state.ports import LiveView, RunKey
from drw.workflow.state.settings import Settings

TERMINAL_STATES = frozenset({"succeeded", "failed", "cancelled"})


class EventSubscriptions:
    """The live view, backed by the event log."""

    def __init__(self, view: LiveView, event_log: EventLog, settings: Settings) -> None:
        self._view = view
        self._event_log = event_log
        self._settings = settings

    async def publish(self, key: RunKey, event: RunEvent) -> None:
        """Store an event and publish it.

        Raises:
            Unavailable: the live view does not answer, or an earlier event of the run is missing.
        """
        await self._event_log.append(key, event)
        if not await self._view.append(key, event):
            await self._restore(key)
            if not await self._view.append(key, event):
                raise Unavailable(f"the event before {event.event_id} of {key.run!r} is missing: publish it first")
        if _ends_run(event):
            await self._view.expire(key, self._settings.retention_seconds)

    async def delete(self, keys: Sequence[RunKey]) -> None:
        """Delete all events of ended runs. Idempotent.

        Raises:
            Unavailable: the live view does not answer.
        """
        await self._event_log.delete(keys)
        for key in keys:  # a watcher may have restored it
            await self._view.expire(key, 0)

    async def watch(self, key: RunKey, caller: Principal, number: int) -> AsyncIterator[RunEvent]:
        """Yield the events after this number until the run ends.

        Raises:
            NotFound: the desk has no such run, or the caller is outside one of its walls.
            Unavailable: the live view does not answer.
        """
        await self._wait_until_visible(key, caller)
        last_sent = time.monotonic()
        while True:
            events = await self._view.events_after(key, number, self._settings.poll_timeout_seconds)
            for event in events:
                yield event
                number, last_sent = int(event.event_id), time.monotonic()
                if _ends_run(event):
                    return
            if not events and await self._has_ended(key):
                return
            if time.monotonic() - last_sent > self._settings.keepalive_seconds:
                yield _keepalive(key)
                last_sent = time.monotonic()

    async def _has_ended(self, key: RunKey) -> bool:
        latest = await self._view.latest(key)
        if latest is None:
            await self._restore(key)
        return latest is not None and _ends_run(latest)

    async def _wait_until_visible(self, key: RunKey, caller: Principal) -> None:
        """Wait until the run exists. A run inside other walls behaves like a missing one and takes as long."""
        deadline = time.monotonic() + self._settings.lookup_timeout_seconds
        while True:
            latest = await self._view.latest(key)
            if latest is None and await self._restore(key):
                latest = await self._view.latest(key)
            if latest is not None and walls.inside(latest.walls, caller):
                return
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise NotFound(f"there is no run {key.run!r}")
            seconds = min(remaining, 0.25)
            if latest is None:
                await self._view.events_after(key, 0, seconds)
            else:  # the events of a hidden run exist, so the view would return at once
                await asyncio.sleep(seconds)

    async def _restore(self, key: RunKey) -> bool:
        events = await self._event_log.events(key)
        await self._view.restore(key, events)
        if events and _ends_run(events[-1]):
            await self._view.expire(key, self._settings.retention_seconds)
        return bool(events)


def _ends_run(event: RunEvent) -> bool:
    return not event.step and event.state in TERMINAL_STATES


def _keepalive(key: RunKey) -> RunEvent:
    now = Timestamp()
    now.GetCurrentTime()
    return RunEvent(run=key.run, org=key.org, desk=key.desk, state="waiting", at=now)
