"""The behaviour that all adapters of the event bus share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from drw.events.connection import connect
from drw.events.ports import EventBus
from drw.kernel.errors import Unavailable
from events.brokers import Broker
from events.samples import event, events_of, received

CONSUMER = "events"
KEYS = [f"acme/research/run/{n}" for n in range(10)]


@pytest.fixture
async def bus(broker: Broker) -> AsyncIterator[EventBus]:
    bus = connect(broker.profile)
    yield bus
    await bus.close()


async def test_an_event_arrives_with_all_its_attributes(bus: EventBus) -> None:
    subscription = await bus.subscribe(CONSUMER)
    await bus.publish([event(1)])
    assert events_of(await received(subscription, 1)) == [event(1)]
    await subscription.close()


async def test_events_of_a_key_arrive_in_order(bus: EventBus) -> None:
    subscription = await bus.subscribe(CONSUMER)
    sent = [event(number, KEYS[number % 10]) for number in range(600)]
    for start in range(0, len(sent), 200):
        await bus.publish(sent[start : start + 200])
    arrived = events_of(await received(subscription, 600))
    assert len(arrived) == 600
    for key in KEYS:
        assert [e.id for e in arrived if e.key == key] == [e.id for e in sent if e.key == key]
    await subscription.close()


async def test_unacknowledged_events_arrive_again_in_order(broker: Broker, bus: EventBus) -> None:
    first = await bus.subscribe(CONSUMER)
    await bus.publish([event(number) for number in range(5)])
    assert len(await received(first, 5, acknowledge=False)) == 5
    await first.close()
    await bus.publish([event(5)])
    next_process = connect(broker.profile)
    second = await next_process.subscribe(CONSUMER)
    assert [e.id for e in events_of(await received(second, 6))] == [event(number).id for number in range(6)]
    await second.close()
    await next_process.close()


async def test_acknowledged_events_do_not_arrive_again(broker: Broker, bus: EventBus) -> None:
    first = await bus.subscribe(CONSUMER)
    await bus.publish([event(1)])
    await received(first, 1)
    await first.close()
    await bus.publish([event(2)])
    second = await bus.subscribe(CONSUMER)
    assert [e.id for e in events_of(await received(second, 1))] == [event(2).id]
    await second.close()


async def test_a_consumer_of_the_catalog_misses_no_event_before_its_first_start(bus: EventBus) -> None:
    await bus.publish([event(1)])
    subscription = await bus.subscribe(CONSUMER)
    assert events_of(await received(subscription, 1)) == [event(1)]
    await subscription.close()


async def test_each_consumer_receives_all_events(bus: EventBus) -> None:
    subscriptions = [await bus.subscribe(name) for name in ("events", "orchestration")]
    await bus.publish([event(1), event(2)])
    for subscription in subscriptions:
        assert [e.id for e in events_of(await received(subscription, 2))] == [event(1).id, event(2).id]
        await subscription.close()


async def test_two_processes_of_a_consumer_share_its_events(broker: Broker, bus: EventBus) -> None:
    other = connect(broker.profile)
    subscriptions = [await bus.subscribe(CONSUMER), await other.subscribe(CONSUMER)]
    arrived: list[str] = []

    async def receive(index: int) -> None:
        while len(set(arrived)) < 200:  # a rebalance repeats events
            batch = await subscriptions[index].fetch(0.5)
            arrived.extend(e.id for e in events_of(list(batch)))
            if batch:
                await subscriptions[index].acknowledge(batch)

    await bus.publish([event(number, KEYS[number % 10]) for number in range(200)])
    async with asyncio.timeout(60):
        await asyncio.gather(receive(0), receive(1))
    assert len(set(arrived)) == 200
    for subscription in subscriptions:
        await subscription.close()
    await other.close()


async def test_a_fetch_without_events_returns_in_time(bus: EventBus) -> None:
    subscription = await bus.subscribe(CONSUMER)
    async with asyncio.timeout(20):
        assert await subscription.fetch(0.2) == []
    await subscription.close()


async def test_the_largest_event_arrives(bus: EventBus) -> None:
    subscription = await bus.subscribe(CONSUMER)
    large = event(1)
    large.data["error"] = "é" * 30_000
    await bus.publish([large])
    assert events_of(await received(subscription, 1)) == [large]
    await subscription.close()


@pytest.mark.parametrize("adapter", ["valkey", "kafka", "pubsub"])
async def test_a_broker_that_does_not_answer_is_unavailable(adapter: str, broker: Broker, tmp_path: object) -> None:
    if adapter not in broker.name or broker.name == "kafka":
        pytest.skip("another adapter")
    closed = "127.0.0.1:9"
    bus_settings = broker.profile.bus
    settings = bus_settings.model_copy(
        update={
            "kafka": bus_settings.kafka.model_copy(update={"bootstrap": closed}),
            "pubsub": bus_settings.pubsub.model_copy(update={"emulator": closed}),
        }
    )
    update = {"bus": settings, "valkey": f"unix://{tmp_path}/none"}
    gone = connect(broker.profile.model_copy(update=update))
    with pytest.raises(Unavailable):
        await gone.publish([event(1)])
    await gone.close()
