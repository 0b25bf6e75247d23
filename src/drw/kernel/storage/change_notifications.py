"""Change notifications between processes (LISTEN/NOTIFY): all waiters of a process share one connection."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from drw.kernel.storage.database import Connection, Database


async def notify(connection: Connection, channel: str) -> None:
    """Notify the listeners of a channel in all processes when the transaction commits."""
    await connection.execute("select pg_notify(%s, '')", (channel,))


class ChangeNotifications:
    """Call `next_change()`, read the state, then `wait` for the change: a change in between is not missed."""

    def __init__(self, database: Database, channel: str) -> None:
        self._database = database
        self._channel = channel
        self._next = asyncio.Event()

    def next_change(self) -> asyncio.Event:
        """Return an event that the next change sets."""
        return self._next

    async def wait(self, change: asyncio.Event, seconds: float) -> None:
        """Wait for a change, at most `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await change.wait()

    async def listen(self) -> None:
        """Listen to notifications until cancelled."""
        async for _ in self._database.notifications(self._channel):
            self.wake()

    def wake(self) -> None:
        """Wake all waiters of this process."""
        self._next.set()
        self._next = asyncio.Event()
