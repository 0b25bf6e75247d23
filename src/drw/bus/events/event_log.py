"""The event log: events that arrived on the bus, for the callers of their tenant."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, LiteralString

from google.protobuf.message import Message

from drw.events.event import Event
from drw.kernel import tenancy
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.sql import Jsonb
from drw.kernel.tenancy import PLATFORM_ADMIN, Owner

CHANNEL = "events_log"
LOCK = 0x6576746C6F67
"""The advisory lock "evtlog": it serialises inserts, so that no reader passes a number that commits later."""
PAGE_SIZE = 200
INTERVAL_SECONDS = 60.0
BATCH_SIZE = 10_000

PAGE: LiteralString = """
select * from event
where number > %(after)s
    and (%(every_org)s or org = '' or (org = %(org)s and (%(every_desk)s or desk in ('', %(desk)s))))
    and inside(walls, %(walls)s) and type = any(%(types)s::text[])
order by number limit %(limit)s
"""
DELETE_OLD = """
delete from event where number in
    (select number from event where at < clock_timestamp() - make_interval(days => %s) order by at limit %s)
"""
DELETE_EXCESS = "delete from event where number <= (select number from event order by number desc offset %s limit 1)"


class EventLog:
    """The table of events."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._changed = asyncio.Event()

    async def append(self, connection: Connection, event: Event, _: Message) -> None:
        """Store an event, as part of the transaction that receives it."""
        await connection.execute("select pg_advisory_xact_lock(%s)", (LOCK,))
        await connection.execute(
            "insert into events.event (id, type, source, subject, time, org, desk, walls, actor, data)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            (
                *(event.id, event.type, event.source, event.subject, event.time, event.org, event.desk),
                *(list(event.walls), event.actor, Jsonb(event.data)),
            ),
        )
        await connection.execute("select pg_notify(%s, '')", (CHANNEL,))

    async def newest(self) -> int:
        """Return the number of the newest event, or 0."""
        row = await self._database.one("select coalesce(max(number), 0) as number from event")
        return int((row or {"number": 0})["number"])

    async def page(self, principal: Principal, after: int, types: Sequence[str]) -> list[dict[str, Any]]:
        """Return events of these types after a number that the caller can see, oldest first."""
        parameters = {
            "after": after,
            "every_org": PLATFORM_ADMIN in principal.scopes,
            "org": principal.org,
            "every_desk": tenancy.may_change(Owner(principal.org), principal),
            "desk": principal.desk,
            "walls": sorted(principal.walls),
            "types": list(types),
            "limit": PAGE_SIZE,
        }
        async with self._database.transaction() as connection:
            return await (await connection.execute(PAGE, parameters)).fetchall()

    def next_change(self) -> asyncio.Event:
        """Return an event that is set when the log changes. Take it before reading a page."""
        return self._changed

    async def listen(self) -> None:
        """Wake the readers after each change, until cancelled."""
        async with aclosing(self._database.notifications(CHANNEL)) as notifications:
            async for _ in notifications:
                self._changed.set()
                self._changed = asyncio.Event()

    async def delete_old(self, days: int, maximum: int) -> None:
        """Delete old events, and the oldest above a maximum."""
        deleted = BATCH_SIZE
        while deleted == BATCH_SIZE:
            async with self._database.transaction() as connection:
                deleted = (await connection.execute(DELETE_OLD, (days, BATCH_SIZE))).rowcount
        async with self._database.transaction() as connection:
            await connection.execute(DELETE_EXCESS, (maximum,))
