"""Events of tests, and helpers that receive them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from drw.events.event import Event
from drw.events.ports import Delivery, Subscription

TYPE = "com.drw.ai.run.ended.v1"
SECONDS = 60.0


def event(number: int, key: str = "acme/research/run/1", type_: str = TYPE) -> Event:
    """Return an event with all attributes."""
    return Event(
        id=f"{key}-{number}",
        type=type_,
        source="//drw/orchestration",
        subject=f"run/{number}",
        time=datetime(2026, 11, 30, 9, 30, 0, 123456, tzinfo=UTC),
        key=key,
        schema="drw.api.events.v1.RunEnded",
        data={"run": str(number), "template": "Zürich", "error": ""},
        org="acme",
        desk="research",
        walls=("m-and-a", "rates"),
        actor="key_1",
        trace="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        depth=2,
    )


async def received(subscription: Subscription, count: int, acknowledge: bool = True) -> list[Delivery]:
    """Return the next `count` deliveries or more."""
    deliveries: list[Delivery] = []
    async with asyncio.timeout(SECONDS):
        while len(deliveries) < count:
            batch = await subscription.fetch(1.0)
            deliveries += batch
            if batch and acknowledge:
                await subscription.acknowledge(batch)
    return deliveries


def events_of(deliveries: list[Delivery]) -> list[Event]:
    """Return the events of well-formed deliveries."""
    return [delivery.event for delivery in deliveries if delivery.event]
