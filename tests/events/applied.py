"""A consumer that applies events to a table, and what it applied."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from google.protobuf.message import Message

from drw.events.connection import connect
from drw.events.consumer import Consumer
from drw.events.event import Event
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Connection, Database
from events.samples import TYPE
from support.parts import until


async def apply(connection: Connection, event: Event, _: Message) -> None:
    """Append an event to the table."""
    await connection.execute(
        "insert into applied (event_id, key, number) values (%s, %s, %s)",
        (event.id, event.key, int(event.data["error"])),
    )


@asynccontextmanager
async def consumer(profile: Profile, database: Database) -> AsyncIterator[Consumer]:
    """Run a consumer during the block, and again after each error."""
    async with database.transaction() as connection:
        await connection.execute(
            "create table applied (id bigint generated always as identity, event_id text, key text, number int)"
        )
    bus = connect(profile)
    running = Consumer("events", database, bus, {TYPE: apply})
    task = asyncio.create_task(running.run())
    try:
        yield running
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await bus.close()


async def wait_for(database: Database, count: int, seconds: float = 120) -> None:
    """Wait until so many events are applied."""

    async def is_applied() -> bool:
        return await applied_count(database) >= count

    await until(is_applied, f"{count} events", seconds)


async def applied_count(database: Database) -> int:
    """Return the number of applied events."""
    row = await database.one("select count(*) as count from applied")
    return int((row or {"count": 0})["count"])


async def check_once_in_order(database: Database, count: int) -> None:
    """Check that all events were applied, each once, and those of a key in the order of their numbers."""
    rows = await database.all("select * from applied order by id")
    assert len(rows) == len({row["event_id"] for row in rows}) == count
    assert sorted(row["number"] for row in rows) == list(range(count))
    for key in {row["key"] for row in rows}:
        numbers = [row["number"] for row in rows if row["key"] == key]
        assert numbers == sorted(numbers), key
