"""Outbox relay: sends events to the bus in order. It can be killed at any line and loses no event.

One relay works at a time, under an advisory lock of its transaction. If it dies after the broker accepted events, the
next relay sends them again, and consumers ignore the duplicates.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from drw.events.event import Event
from drw.events.ports import EventBus
from drw.events.publisher import CHANNEL
from drw.kernel.errors import DrwError
from drw.kernel.storage.database import Connection, Database

log = logging.getLogger(__name__)

LOCK = 0x6576656E7473
"""The advisory lock "events"."""
BATCH_SIZE = 500
BATCH_BYTES = 4 << 20
"""Events of a batch, below the 10 MB of a request to Pub/Sub."""
IDLE_SECONDS = 1.0
"""Interval of checks without notifications, for the events of a dead relay and for a broker that lost its data."""
RETRY_SECONDS = 1.0
FROZEN_SECONDS = 30
"""PostgreSQL ends the transaction of a relay that is idle for longer: its process is frozen. Longer than a publish."""
PUBLISH_SECONDS = 20.0


class OutboxRelay:
    """Relays events until cancelled."""

    def __init__(self, database: Database, bus: EventBus) -> None:
        self._database = database
        self._bus = bus
        self._wake = asyncio.Event()
        self.error_message = ""
        """The error of the last batch, or an empty string."""

    async def listen(self) -> None:
        """Wake the relay when a transaction commits events."""
        async with aclosing(self._database.notifications(CHANNEL)) as notifications:
            async for _ in notifications:
                self._wake.set()

    async def run(self) -> None:
        """Relay events until cancelled."""
        while True:
            self._wake.clear()
            try:
                while await self.relay_batch():
                    pass
            except (DrwError, TimeoutError) as error:
                self._set_error(error.message if isinstance(error, DrwError) else "the bus does not answer")
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._set_error("")
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def relay_batch(self) -> bool:
        """Relay a batch of events; return whether there may be more.

        Raises:
            Unavailable: the broker or the database does not answer.
        """
        async with self._database.transaction() as connection:
            await connection.execute(
                "select set_config('idle_in_transaction_session_timeout', %s, true)", (f"{FROZEN_SECONDS}s",)
            )
            cursor = await connection.execute("select pg_try_advisory_xact_lock(%s) as locked", (LOCK,))
            if not (await cursor.fetchone() or {})["locked"]:
                return False
            await self._check_generation(connection)
            cursor = await connection.execute(
                "select id, event from bus.outbox where sent_at is null order by id limit %s", (BATCH_SIZE,)
            )
            if not (waiting := await cursor.fetchall()):
                return False
            rows = _bounded(waiting)
            async with asyncio.timeout(PUBLISH_SECONDS):
                await self._bus.publish([Event.from_json(row["event"]) for row in rows])
            ids = [row["id"] for row in rows]
            if self._bus.durable:
                await connection.execute("delete from bus.outbox where id = any(%s)", (ids,))
            else:
                await connection.execute("update bus.outbox set sent_at = clock_timestamp() where id = any(%s)", (ids,))
        return len(rows) == BATCH_SIZE or len(rows) < len(waiting)

    async def _check_generation(self, connection: Connection) -> None:
        """Send all retained events again if the broker has lost its data."""
        generation = await self._bus.generation()
        cursor = await connection.execute("select generation from bus.relay")
        row = await cursor.fetchone()
        if row is not None and row["generation"] == generation:
            return
        await connection.execute(
            "insert into bus.relay (generation) values (%s)"
            " on conflict (single) do update set generation = excluded.generation",
            (generation,),
        )
        if row is not None:
            cursor = await connection.execute("update bus.outbox set sent_at = null where sent_at is not null")
            log.warning("the event bus has lost its data: %d events are sent again", cursor.rowcount)

    def _set_error(self, message: str) -> None:
        if message and not self.error_message:
            log.warning("events wait in the outbox: %s", message)
        if self.error_message and not message:
            log.info("the event bus has caught up")
        self.error_message = message


def _bounded(rows: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Return the first rows whose events have at most `BATCH_BYTES`."""
    total = 0
    for number, row in enumerate(rows):
        total += len(row["event"])
        if total > BATCH_BYTES:
            return rows[:number]
    return rows
