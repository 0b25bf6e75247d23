"""Notifications of changes to vector store files: many waiters share one database connection."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from drw.kernel.storage.database import Connection, Database

CHANNEL = "documents_changed"


async def announce(connection: Connection) -> None:
    """Notify every process of a change when the transaction commits."""
    await connection.execute("select pg_notify(%s, '')", (CHANNEL,))


class ChangeNotifications:
    """Call `mark()`, read the state, then wait with `after(mark)`: no change in between is missed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._next = asyncio.Event()

    def mark(self) -> asyncio.Event:
        """Return the event that the next change sets."""
        return self._next

    async def after(self, mark: asyncio.Event, seconds: float) -> None:
        """Wait for the first change since the mark, at most so many seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(mark.wait(), seconds)

    async def follow(self) -> None:
        """Listen, until cancelled."""
        async for _ in self._database.notifications(CHANNEL):
            self.nudge()

    def nudge(self) -> None:
        """Wake all waiters of this process."""
        self._next.set()
        self._next = asyncio.Event()
