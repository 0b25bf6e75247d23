"""Notifications of changes to vector store files (LISTEN/NOTIFY): all waiters share one database connection."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from drw.kernel.storage.database import Connection, Database

CHANNEL = "documents_changed"


async def notify(connection: Connection) -> None:
    """Notify all processes of a change, when the transaction commits."""
    await connection.execute("select pg_notify(%s, '')", (CHANNEL,))


class ChangeNotifications:
    """Call `next_change()`, read the state, then `wait` for the change: a change in between is not missed."""

    def __init__(self, database: Database) -> None:
        self._database = database
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
        async for _ in self._database.notifications(CHANNEL):
            self.wake()

    def wake(self) -> None:
        """Wake all waiters of this process."""
        self._next.set()
        self._next = asyncio.Event()
