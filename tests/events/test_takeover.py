"""The takeover of a dead consumer's events on Valkey, and live consumers that are slow."""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest
from google.protobuf.message import Message
from redis.asyncio import Redis

from drw.events.adapters import valkey
from drw.events.connection import connect
from drw.events.consumer import Consumer
from drw.events.event import Event
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Connection, Database
from events.samples import TYPE, event, events_of, received
from support.parts import until

HOLD = """
import asyncio, sys
from drw.events.connection import connect
from drw.kernel.runtime.settings import Profile

async def hold():
    subscription = await connect(Profile.model_validate_json(sys.stdin.read())).subscribe("events")
    while not await subscription.fetch(1.0):
        pass
    print("received", flush=True)
    await asyncio.Event().wait()

asyncio.run(hold())
"""
"""A process that receives events and does not acknowledge them."""


async def holder(profile: Profile) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLD), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin and process.stdout
    process.stdin.write(profile.model_dump_json().encode())
    process.stdin.close()
    assert await asyncio.wait_for(process.stdout.readline(), 60) == b"received\n"
    return process


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
async def test_events_of_a_dead_or_frozen_process_go_to_another_one(profile: Profile, sent: signal.Signals) -> None:
    bus = connect(profile)
    await bus.publish([event(1), event(2)])
    process = await holder(profile)
    try:
        other = await bus.subscribe("events")
        assert await other.fetch(0.01) == [], "the process has the lease"
        process.send_signal(sent)
        assert [e.id for e in events_of(await received(other, 2))] == [event(1).id, event(2).id]
        await other.close()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await bus.close()


async def test_a_slow_live_consumer_keeps_its_events(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = connect(profile)
    slow, other = await bus.subscribe("events"), await bus.subscribe("events")
    await bus.publish([event(1)])
    assert len(await received(slow, 1, acknowledge=False)) == 1
    async with Redis.from_url(profile.valkey) as redis:
        lease = 1000 * valkey.LEASE_SECONDS
        passed = asyncio.get_running_loop().time() + 2 * valkey.LEASE_SECONDS

        async def is_twice_the_lease() -> bool:
            assert await other.fetch(0.05) == []
            remaining = await redis.pttl("drw:events:lease:events")
            assert 0 < remaining <= lease
            return asyncio.get_running_loop().time() > passed

        await until(is_twice_the_lease, "twice the time of the lease")
    await slow.close()
    assert len(await received(other, 1)) == 1, "unacknowledged events go to the next one"
    await other.close()
    await bus.close()


@pytest.mark.parametrize("first_fails", [False, True])
async def test_a_stolen_event_is_applied_once(profile: Profile, tables: Database, first_fails: bool) -> None:
    """A process whose event loop hangs loses its lease while it applies an event; both processes apply it."""
    async with tables.transaction() as connection:
        await connection.execute("create table applied (event text, process text)")
    bus, started, proceed = connect(profile), asyncio.Event(), asyncio.Event()

    async def apply_first(connection: Connection, event: Event, _: Message) -> None:
        await connection.execute("insert into applied values (%s, 'first')", (event.id,))
        started.set()
        await proceed.wait()
        if first_fails:
            raise asyncio.CancelledError  # its process dies

    async def apply_second(connection: Connection, event: Event, _: Message) -> None:
        await connection.execute("insert into applied values (%s, 'second')", (event.id,))

    await bus.publish([event(1)])
    first = await bus.subscribe("events")
    stolen = await received(first, 1, acknowledge=False)
    await first.close()  # as if its lease had expired
    slow = asyncio.create_task(Consumer("events", tables, bus, {TYPE: apply_first}).apply(stolen))
    await started.wait()
    second = await bus.subscribe("events")
    again = await received(second, 1, acknowledge=False)
    other = asyncio.create_task(Consumer("events", tables, bus, {TYPE: apply_second}).apply(again))

    async def waits() -> bool:
        row = await tables.one("select count(*) as n from pg_stat_activity where wait_event_type = 'Lock'")
        return bool(row and row["n"])

    await until(waits, "the wait for the row of the inbox")
    proceed.set()
    await asyncio.gather(slow, other, return_exceptions=True)
    rows = await tables.all("select * from applied")
    assert rows == [{"event": event(1).id, "process": "second" if first_fails else "first"}]
    await second.close()
    await bus.close()
