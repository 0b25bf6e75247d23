"""Wakes waiting steps when a vote was cast or a child run has ended."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from drw.kernel.storage.database import Connection, Database

CHANNEL = "orchestration_signal"
MAX_SLEEP_SECONDS = 60.0
"""A missed notification delays a step by at most this."""


class Signals:
    """Notifications of the database, shared by all waiting steps of this process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._event = asyncio.Event()

    async def run(self) -> None:
        """Forward notifications until cancelled."""
        async for _ in self._database.notifications(CHANNEL):
            self._event.set()
            self._event = asyncio.Event()

    def next(self) -> asyncio.Event:
        """Return the event of the next notification. Take it before reading the database, to miss nothing."""
        return self._event


async def wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, at most this long and at most `MAX_SLEEP_SECONDS`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(min(max(0.0, seconds), MAX_SLEEP_SECONDS)):
            await event.wait()


async def notify(connection: Connection) -> None:
    """Wake waiting steps of all processes when the transaction is committed."""
    await connection.execute("select pg_notify(%s, '')", (CHANNEL,))
