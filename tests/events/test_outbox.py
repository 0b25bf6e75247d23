"""The outbox, the inbox and the consumer, on Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from google.protobuf.message import Message
from psycopg import sql
from redis.asyncio import Redis

from drw.api.events.v1.models_pb2 import AliasMoved
from drw.api.events.v1.workflows_pb2 import RunEnded
from drw.events import consumer as consumers
from drw.events import retention
from drw.events.adapters import valkey
from drw.events.connection import connect
from drw.events.consumer import Consumer
from drw.events.event import Event
from drw.events.ports import Delivery, EventBus
from drw.events.publisher import Publisher
from drw.events.relay import OutboxRelay
from drw.events.retention import Retention
from drw.kernel.errors import ConfigError, InvalidRequest, Unavailable
from drw.kernel.runtime.settings import Bus, Profile, ValkeyBus
from drw.kernel.storage.database import Connection, Database
from drw.kernel.tenancy import Owner
from events.relay_process import publish
from events.samples import TYPE, event, events_of, received
from support.parts import until

OWNER = Owner("acme", "research")
RUNS = Publisher("orchestration")


@pytest.fixture
async def bus(profile: Profile) -> AsyncIterator[EventBus]:
    bus = connect(profile)
    yield bus
    await bus.close()


async def outbox(tables: Database) -> list[str]:
    rows = await tables.all("select event from bus.outbox where sent_at is null order by id")
    return [Event.from_json(row["event"]).data["error"] for row in rows]


async def test_an_event_of_a_rolled_back_transaction_does_not_exist(tables: Database) -> None:
    with pytest.raises(RuntimeError):
        async with tables.transaction() as connection:
            await RUNS.publish(connection, RunEnded(run="1"), "run/1", OWNER)
            raise RuntimeError
    assert await outbox(tables) == []


async def test_only_the_publisher_of_the_catalog_publishes(tables: Database) -> None:
    async with tables.transaction() as connection:
        with pytest.raises(ConfigError, match=r"'orchestration' publishes 'alias.moved'"):
            await RUNS.publish(connection, AliasMoved(), "alias/fast", OWNER)


async def test_an_oversized_event_is_rejected(tables: Database) -> None:
    async with tables.transaction() as connection:
        with pytest.raises(InvalidRequest, match="an event of 7"):
            await RUNS.publish(connection, RunEnded(error="x" * 70_000), "run/1", OWNER)


async def test_transactions_of_a_key_are_ordered_as_they_commit(tables: Database) -> None:
    async with tables.transaction() as first:
        await RUNS.publish(first, RunEnded(run="1", error="first"), "run/1", OWNER)
        second = asyncio.create_task(publish(tables, "1", 2))
        await publish(tables, "2", 3)  # another key does not wait

        async def waits() -> bool:
            query = "select count(*) as n from pg_locks where locktype = 'advisory' and not granted"
            row = await tables.one(query)
            return bool(row and row["n"])

        await until(waits, "the lock of the key")
        assert not second.done()
    await second
    assert [error for error in await outbox(tables) if error != "3"] == ["first", "2"]


async def test_events_are_sent_again_after_valkey_has_lost_them(
    tables: Database, bus: EventBus, profile: Profile
) -> None:
    relay = OutboxRelay(tables, bus)
    await publish(tables, "1", 1)
    await relay.relay_batch()
    async with Redis.from_url(profile.valkey) as redis:
        await redis.flushdb()
    await relay.relay_batch()
    subscription = await bus.subscribe("events")
    assert [e.data["error"] for e in events_of(await received(subscription, 1))] == ["1"]
    await subscription.close()


async def test_a_broker_that_is_gone_leaves_the_events_in_the_outbox(tables: Database, profile: Profile) -> None:
    gone = connect(profile.model_copy(update={"valkey": "unix:///nowhere"}))
    await publish(tables, "1", 1)
    with pytest.raises(Unavailable):
        await OutboxRelay(tables, gone).relay_batch()
    assert await outbox(tables) == ["1"]


async def test_two_relays_do_not_work_at_the_same_time(tables: Database, bus: EventBus) -> None:
    await publish(tables, "1", 1)
    async with tables.transaction() as connection:
        await connection.execute("select pg_advisory_xact_lock(%s)", (0x6576656E7473,))
        assert not await OutboxRelay(tables, bus).relay_batch()
        assert await outbox(tables) == ["1"]


async def test_a_slow_consumer_makes_events_wait_and_loses_none(tables: Database, profile: Profile) -> None:
    small = connect(profile.model_copy(update={"bus": Bus(valkey=ValkeyBus(max_events=1000))}))
    slow = await small.subscribe("events")
    await slow.fetch(0.01)  # creates its group
    await small.publish([event(number) for number in range(600)])
    with pytest.raises(Unavailable, match="'events' is 600 events behind"):
        await small.publish([event(number) for number in range(600, 1100)])
    assert len(await received(slow, 600)) == 600
    await small.publish([event(number) for number in range(600, 1100)])
    assert len(await received(slow, 500)) == 500
    await slow.close()
    await small.close()


async def test_a_consumer_that_no_longer_exists_holds_nothing_up(profile: Profile) -> None:
    small = connect(profile.model_copy(update={"bus": Bus(valkey=ValkeyBus(max_events=1000))}))
    dead = await small.subscribe("removed_service")
    await dead.fetch(0.01)
    for start in range(0, 3000, 500):
        await small.publish([event(number) for number in range(start, start + 500)])
    async with Redis.from_url(profile.valkey) as redis:
        assert await redis.xlen(valkey.STREAM) < 1500
        assert await redis.xinfo_groups(valkey.STREAM) == []
    await small.close()


class Applied:
    """A handler that remembers events, and fails for some."""

    def __init__(self, *errors: Exception) -> None:
        self.numbers: list[str] = []
        self._errors = list(errors)

    async def __call__(self, connection: Connection, event: Event, _: Message) -> None:
        if event.id.endswith("-2") and self._errors:
            raise self._errors.pop(0)
        self.numbers.append(event.id[-1])


@pytest.fixture(autouse=True)
def fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumers, "FIRST_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(consumers, "MAX_RETRY_SECONDS", 0.001)


def deliveries(*numbers: int) -> list[Delivery]:
    return [Delivery(event(number), b"", None) for number in numbers]


async def test_a_duplicate_is_applied_once(tables: Database, bus: EventBus) -> None:
    handler = Applied()
    consumer = Consumer("events", tables, bus, {TYPE: handler})
    await consumer.apply(deliveries(1, 2, 1))
    await consumer.apply(deliveries(2, 3))
    assert handler.numbers == ["1", "2", "3"]


async def test_each_consumer_has_its_own_inbox(tables: Database, bus: EventBus) -> None:
    handler = Applied()
    for name in ("events", "orchestration"):
        await Consumer(name, tables, bus, {TYPE: handler}).apply(deliveries(1))
    assert handler.numbers == ["1", "1"]


async def test_a_poison_event_is_parked_and_others_pass(tables: Database, bus: EventBus) -> None:
    handler = Applied(*[ValueError("poison")] * 100)
    await Consumer("events", tables, bus, {TYPE: handler}).apply(deliveries(1, 2, 3))
    assert handler.numbers[-2:] == ["1", "3"]
    (parked,) = await tables.all("select * from bus.parked")
    assert (parked["consumer"], parked["event_id"]) == ("events", event(2).id)
    assert Event.from_json(parked["event"]) == event(2)
    await Consumer("events", tables, bus, {TYPE: handler}).apply(deliveries(2))
    assert len(await tables.all("select * from bus.parked")) == 1


async def test_an_unavailable_dependency_does_not_park_events(tables: Database, bus: EventBus) -> None:
    handler = Applied(*[Unavailable("down")] * 20)
    await Consumer("events", tables, bus, {TYPE: handler}).apply(deliveries(1, 2, 3))
    assert handler.numbers[-3:] == ["1", "2", "3"]
    assert await tables.all("select * from bus.parked") == []


async def test_a_malformed_message_is_parked(tables: Database, bus: EventBus, profile: Profile) -> None:
    subscription = await bus.subscribe("events")
    async with Redis.from_url(profile.valkey) as redis:
        for raw in (b"{", b"[]", b'{"specversion": "1.0"}', b'{"specversion":"1.0","id":"1","type":"t","source":"s"}'):
            await redis.xadd(valkey.STREAM, {b"e": raw})
        await redis.xadd(valkey.STREAM, {b"other": b"x"})
    await bus.publish([event(1)])
    handler = Applied()
    await Consumer("events", tables, bus, {TYPE: handler}).apply(await received(subscription, 6))
    assert handler.numbers == ["1"]
    assert len(await tables.all("select * from bus.parked where event_id like 'malformed-%%'")) == 5
    await subscription.close()


async def test_data_of_a_newer_publisher_is_applied(tables: Database, bus: EventBus) -> None:
    newer = event(1)
    newer.data["new_field"] = 7
    handler = Applied()
    await Consumer("events", tables, bus, {TYPE: handler}).apply([Delivery(newer, b"", None)])
    assert handler.numbers == ["1"]


async def test_old_rows_are_deleted(tables: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MAX_PARKED", 2)
    async with tables.transaction() as connection:
        for age in ("2 hours", "1 second"):
            await connection.execute(
                "insert into bus.outbox (event_id, event, sent_at) values ('1', '', now() - %s::interval)", (age,)
            )
        for age in ("8 days", "1 day"):
            await connection.execute("insert into bus.inbox values ('c', %s, now() - %s::interval)", (age, age))
        for number in range(4):
            await connection.execute(
                "insert into bus.parked (consumer, event_id, event, error) values ('c', %s, '', '')", (str(number),)
            )
    await Retention(tables, 3600).delete()
    for table, rows in (("outbox", 1), ("inbox", 1), ("parked", 2)):
        query = sql.SQL("select * from bus.{}").format(sql.Identifier(table))
        async with tables.transaction() as connection:
            assert len(await (await connection.execute(query)).fetchall()) == rows, table
