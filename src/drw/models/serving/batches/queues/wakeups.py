"""Wakes the workers of all processes when there is new work (LISTEN/NOTIFY)."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from drw.kernel.storage.database import Connection, Database

CHANNEL = "serving_batches"


async def notify(connection: Connection) -> None:
    """Wake all workers when the transaction commits."""
    await connection.execute("select pg_notify(%s, '')", (CHANNEL,))


class Wakeups:
    """Call `next_event()`, look for work, then `wait` for the event: work that comes in between is not missed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._next = asyncio.Event()

    def next_event(self) -> asyncio.Event:
        """Return an event that is set when there is new work."""
        return self._next

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Wait for the event, at most `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()

    async def listen(self) -> None:
        """Listen until cancelled."""
        async for _ in self._database.notifications(CHANNEL):
            self.wake()

    def wake(self) -> None:
        """Wake the workers of this process."""
        self._next.set()
        self._next = asyncio.Event()
