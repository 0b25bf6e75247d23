"""Parked events: who sees and redrives them, and consumers that are killed while they apply one again."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from google.protobuf.message import Message

from drw.api.bus.v1.events_pb2 import ListParkedEventsRequest, ParkedEvent, RedriveParkedEventsRequest
from drw.api.bus.v1.events_rpc import EventsClient
from drw.events import consumer as consumers
from drw.events.connection import connect
from drw.events.consumer import Consumer
from drw.events.event import Event
from drw.events.ports import Delivery, EventBus
from drw.kernel.errors import InvalidRequest, NotFound, Unavailable
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Connection, Database
from events.samples import TYPE, event
from support.hosting import hosted
from support.parts import until
from workflow.schedules.scheduler_process import signal_before_statement

SCOPES = frozenset({"events:read", "events:write", "workflows:read"})
DESK = Principal("acme", "research", "key_1", SCOPES, frozenset({"m-and-a", "rates"}))
CONSUMER = "orchestration"


class Handler:
    """Writes an event into a table; fails while there are errors left."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    async def __call__(self, connection: Connection, event: Event, _: Message) -> None:
        await connection.execute("insert into applied values (%s)", (event.id,))
        if self.errors:
            raise self.errors.pop(0)


@pytest.fixture(autouse=True)
def fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumers, "FIRST_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(consumers, "MAX_RETRY_SECONDS", 0.001)


@pytest.fixture
async def bus(profile: Profile) -> AsyncIterator[EventBus]:
    bus = connect(profile)
    yield bus
    await bus.close()


@pytest.fixture
async def host(profile: Profile, tables: Database) -> AsyncIterator[Host]:
    async with tables.transaction() as connection:
        await connection.execute("create table applied (event text)")
    async with hosted(profile, ["events"]) as running:
        yield running


async def park(tables: Database, bus: EventBus, *events: Event | None) -> Consumer:
    """Let a consumer give up on events; None: a malformed message."""
    consumer = Consumer(CONSUMER, tables, bus, {TYPE: Handler(*[ValueError("poison")] * 100)})
    await consumer.apply([Delivery(event, b"{", None) for event in events])
    return Consumer(CONSUMER, tables, bus, {TYPE: Handler()})


async def parked(host: Host, principal: Principal = DESK, **filters: str) -> list[ParkedEvent]:
    with acting_for(principal):
        return list((await host.client(EventsClient).list_parked_events(ListParkedEventsRequest(**filters))).events)  # type: ignore[arg-type]


async def redrive(host: Host, *ids: str, principal: Principal = DESK, **filters: str) -> int:
    request = RedriveParkedEventsRequest(parked=ids, all=not ids, **filters)
    with acting_for(principal):
        return (await host.client(EventsClient).redrive_parked_events(request)).events


async def applied(tables: Database) -> list[str]:
    return [row["event"] for row in await tables.all("select event from applied order by event")]


async def test_a_parked_event_is_listed_and_applied_again(host: Host, tables: Database, bus: EventBus) -> None:
    consumer = await park(tables, bus, event(1))
    (shown,) = await parked(host)
    assert (shown.consumer, shown.event, shown.type) == (CONSUMER, event(1).id, TYPE)
    assert (shown.subject, shown.error, shown.redriving) == ("run/1", "ValueError", False)
    assert not await consumer.redrive_next(), "nothing is released"
    assert await redrive(host, shown.id) == 1
    assert (await parked(host))[0].redriving
    task = asyncio.create_task(consumer.redrive())

    async def is_applied() -> bool:
        return await applied(tables) == [event(1).id]

    await until(is_applied, "the event")
    assert await parked(host) == []
    await consumer.apply([Delivery(event(1), b"", None)])  # the bus delivers it again
    assert await applied(tables) == [event(1).id]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_event_that_fails_again_stays_parked(host: Host, tables: Database, bus: EventBus) -> None:
    await park(tables, bus, event(1))
    await redrive(host)
    failing = Consumer(CONSUMER, tables, bus, {TYPE: Handler(Unavailable("down"), InvalidRequest("still wrong"))})
    assert await failing.redrive_next(), "an unavailable dependency is no failure"
    assert (await parked(host))[0].redrives == 0

    async def is_due() -> bool:
        return await failing.redrive_next()

    await until(is_due, "the next attempt")
    (shown,) = await parked(host)
    assert (shown.redrives, shown.error, shown.redriving) == (1, "still wrong", False)
    assert await applied(tables) == [] and not await failing.redrive_next()


async def test_only_the_consumer_that_parked_an_event_applies_it(host: Host, tables: Database, bus: EventBus) -> None:
    await park(tables, bus, event(1))
    await redrive(host)
    assert not await Consumer("events", tables, bus, {TYPE: Handler()}).redrive_next()


async def test_other_tenants_and_outsiders_see_and_redrive_nothing(host: Host, tables: Database, bus: EventBus) -> None:
    org, platform = replace(event(2), desk=""), replace(event(3), org="", desk="")
    await park(tables, bus, event(1), org, platform, None)
    (own,) = await parked(host)
    strangers = (
        replace(DESK, org="rival"),
        replace(DESK, desk="rates"),
        replace(DESK, walls=frozenset({"rates"})),
        replace(DESK, scopes=frozenset({"events:read", "events:write"})),
    )
    for stranger in strangers:
        assert await parked(host, stranger) == []
        with pytest.raises(NotFound, match="no parked event"):
            await redrive(host, own.id, principal=stranger)
        assert await redrive(host, principal=stranger) == 0
    assert not (await parked(host))[0].redriving
    assert len(await parked(host, replace(DESK, scopes=SCOPES | {"org:admin"}))) == 2
    operator = Principal("home", "ops", "key_2", SCOPES | {"platform:admin"})
    everything = await parked(host, operator)
    assert len(everything) == 4
    malformed = next(shown for shown in everything if shown.malformed)
    with pytest.raises(NotFound, match="can be applied again"):
        await redrive(host, malformed.id, principal=operator)
    assert await redrive(host, principal=operator) == 3, "all but the malformed one"


async def test_filters_and_pages(host: Host, tables: Database, bus: EventBus) -> None:
    await park(tables, bus, *(event(number) for number in range(5)))
    assert await parked(host, consumer="events") == [] and len(await parked(host, type=TYPE)) == 5
    ids, token = [], ""
    with acting_for(DESK):
        client = host.client(EventsClient)
        for _ in range(3):
            page = await client.list_parked_events(ListParkedEventsRequest(page_size=2, page_token=token))
            ids += [shown.id for shown in page.events]
            token = page.next_page_token
        with pytest.raises(InvalidRequest, match="page_token"):
            await client.list_parked_events(ListParkedEventsRequest(page_token="x"))
        for request in (RedriveParkedEventsRequest(), RedriveParkedEventsRequest(parked=["1"], all=True)):
            with pytest.raises(InvalidRequest, match="either ids"):
                await client.redrive_parked_events(request)
    assert len(set(ids)) == 5 and token == ""
    assert await redrive(host, consumer="events") == 0 and await redrive(host, type=TYPE) == 5


async def _redrive_once(profile: Profile, kill_at: int) -> None:
    database = Database(profile.postgres, "test")
    await database.start("drw.events")
    numbers = itertools.count(1)
    signal_before_statement(signal.SIGKILL, lambda _: next(numbers) == kill_at)
    while await Consumer(CONSUMER, database, connect(profile), {TYPE: Handler()}).redrive_next():
        pass


async def test_a_consumer_killed_at_any_statement_applies_an_event_once(
    host: Host, tables: Database, bus: EventBus, profile: Profile
) -> None:
    for kill_at in itertools.count(1):
        await park(tables, bus, event(kill_at))
        await redrive(host)
        if (pid := os.fork()) == 0:
            try:
                asyncio.new_event_loop().run_until_complete(_redrive_once(profile, kill_at))
            finally:
                os._exit(0)
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        consumer = Consumer(CONSUMER, tables, bus, {TYPE: Handler()})
        while await consumer.redrive_next():
            pass
        assert await applied(tables) == sorted(event(number).id for number in range(1, kill_at + 1))
        if os.WIFEXITED(status):
            break
    assert kill_at > 5  # the lock, the event, the deletion and the commits
