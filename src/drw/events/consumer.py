"""Idempotent consumer: applies each event once, in order per key; the inbox drops duplicates.

The consumer applies an event and adds its id to the inbox in one transaction, and acknowledges the event afterwards.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from uuid import uuid4

from google.protobuf.message import Message
from prometheus_client import Counter

from drw.events.event import Event
from drw.events.ports import Delivery, EventBus
from drw.events.schemas import message_classes
from drw.kernel.errors import DeadlineExceeded, DrwError, InvalidRequest, RateLimited, Unavailable
from drw.kernel.observability import telemetry
from drw.kernel.rpc.json_messages import from_json
from drw.kernel.storage.database import Connection, Database

log = logging.getLogger(__name__)

Handler = Callable[[Connection, Event, Message], Awaitable[None]]
"""Applies an event in the transaction of the connection."""

REDRIVE_CHANNEL = "events_redrive"
FETCH_SECONDS = 1.0
MAX_ATTEMPTS = 5
"""Attempts at an event before it is parked. Attempts that fail because a dependency is unavailable do not count."""
FIRST_RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 5.0
MAX_ERROR = 500
FROZEN_SECONDS = 10
"""PostgreSQL ends the transaction of a consumer that is idle for longer: its process is frozen."""
TRANSIENT = (Unavailable, DeadlineExceeded, RateLimited)

APPLIED = Counter("drw_events_applied", "Events that a consumer applied.", ["consumer"])
DUPLICATES = Counter("drw_events_duplicates", "Events that a consumer received again and ignored.", ["consumer"])
REDRIVEN_EVENTS = Counter("drw_events_redriven", "Parked events that were applied after all.", ["consumer"])
PARKED = Counter("drw_events_parked", "Events that a consumer could not apply.", ["consumer"])

RECEIVE = """
insert into bus.inbox (consumer, event_id) select %s, unnest(%s::text[]) on conflict do nothing returning event_id
"""
PARK = """
insert into bus.parked (consumer, event_id, event, error, malformed, type, org, desk, walls)
values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
REDRIVEN = """
select id, event from bus.parked where consumer = %s and redrive_at <= clock_timestamp()
order by id limit 1 for update skip locked
"""
FAIL_REDRIVE = """
update bus.parked set redrive_at = null, redrives = redrives + 1, error = %s where id = %s
"""
POSTPONE_REDRIVE = """
update bus.parked set redrive_at = clock_timestamp() + make_interval(secs => %s) where id = %s
"""


class Consumer:
    """Applies the events of one consumer with handlers by type. Events without a handler are ignored."""

    def __init__(self, name: str, database: Database, bus: EventBus, handlers: Mapping[str, Handler]) -> None:
        self._name = name
        self._database = database
        self._bus = bus
        self._handlers = handlers

    async def run(self) -> None:
        """Consume events until cancelled.

        Raises:
            Unavailable: the broker does not answer; run it again.
        """
        subscription = await self._bus.subscribe(self._name)
        try:
            while True:
                if deliveries := await subscription.fetch(FETCH_SECONDS):
                    await self.apply(deliveries)
                    await subscription.acknowledge(deliveries)
        finally:
            await subscription.close()

    async def apply(self, deliveries: Sequence[Delivery]) -> None:
        """Apply each event once, in order, or park it."""
        try:
            await self._apply_all([d.event for d in deliveries if d.event])
        except Exception as error:  # noqa: BLE001 - each event is tried alone, and its error is logged then
            log.debug("%s applies events one by one: %s", self._name, telemetry.error_type(error))
            for delivery in deliveries:
                if delivery.event:
                    await self._apply_or_park(delivery.event)
        for delivery in deliveries:
            if delivery.event is None:
                await self._park(None, f"malformed-{uuid4().hex}", delivery.raw, "the message is not a CloudEvent")

    async def redrive(self) -> None:
        """Apply parked events again that were released, until cancelled."""
        async with aclosing(self._database.notifications(REDRIVE_CHANNEL)) as notifications:
            async for _ in notifications:
                while await self.redrive_next():
                    pass

    async def redrive_next(self) -> bool:
        """Apply the next released event; return whether there was one.

        The event is applied and deleted in one transaction, so that it counts once wherever a process is killed. If it
        fails again, it stays parked with the new error.
        """
        seconds = MAX_RETRY_SECONDS
        async with self._transaction() as connection:
            cursor = await connection.execute(REDRIVEN, (self._name,))
            if (row := await cursor.fetchone()) is None:
                return False
            try:
                async with connection.transaction():
                    event = Event.from_json(row["event"])
                    if event.type in self._handlers:
                        await self._handlers[event.type](connection, event, _data(event))
            except TRANSIENT as error:
                log.warning("%s waits with the parked event %s: %s", self._name, row["id"], error.message)
                await connection.execute(POSTPONE_REDRIVE, (seconds, row["id"]))
            except Exception as error:  # it stays parked, with its error: the others must not wait for it
                log.exception("%s cannot apply the parked event %s", self._name, row["id"])
                await connection.execute(FAIL_REDRIVE, (_message(error), row["id"]))
            else:
                await connection.execute("delete from bus.parked where id = %s", (row["id"],))
                REDRIVEN_EVENTS.labels(self._name).inc()
        return True

    async def _apply_all(self, events: Sequence[Event]) -> None:
        handled = [event for event in events if event.type in self._handlers]
        if not handled:
            return
        async with self._transaction() as connection:
            cursor = await connection.execute(RECEIVE, (self._name, [event.id for event in handled]))
            new = {row["event_id"] for row in await cursor.fetchall()}
            count = len(new)
            for event in handled:
                if event.id in new:
                    new.remove(event.id)  # the broker can deliver it twice in one batch
                    await self._handlers[event.type](connection, event, _data(event))
        APPLIED.labels(self._name).inc(count)
        DUPLICATES.labels(self._name).inc(len(handled) - count)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        """Open a transaction that PostgreSQL ends if this process freezes in it: its rows block the next process."""
        async with self._database.transaction() as connection:
            await connection.execute(
                "select set_config('idle_in_transaction_session_timeout', %s, true)", (f"{FROZEN_SECONDS}s",)
            )
            yield connection

    async def _apply_or_park(self, event: Event) -> None:
        failures, seconds = 0, FIRST_RETRY_SECONDS
        while True:
            try:
                await self._apply_all([event])
                return
            except TRANSIENT as error:
                log.warning("%s waits with the event %s: %s", self._name, event.id, error.message)
            except Exception as error:
                failures += 1
                if failures == MAX_ATTEMPTS:
                    log.exception("%s parks the event %s of type %s", self._name, event.id, event.type)
                    await self._park(event, event.id, event.to_json(), _message(error))
                    return
            await asyncio.sleep(seconds)
            seconds = min(seconds * 2, MAX_RETRY_SECONDS)

    async def _park(self, event: Event | None, event_id: str, raw: bytes, error: str) -> None:
        tenant = (event.type, event.org, event.desk, list(event.walls)) if event else ("", "", "", [])
        async with self._transaction() as connection:
            cursor = await connection.execute(RECEIVE, (self._name, [event_id]))
            if await cursor.fetchone():
                await connection.execute(PARK, (self._name, event_id, raw, error[:MAX_ERROR], event is None, *tenant))
                PARKED.labels(self._name).inc()


def _message(error: Exception) -> str:
    return (error.message if isinstance(error, DrwError) else telemetry.error_type(error))[:MAX_ERROR]


def _data(event: Event) -> Message:
    """Return the data of an event; unknown fields of a newer publisher are ignored.

    Raises:
        InvalidRequest: the type is unknown, or a field has a wrong value.
    """
    if (cls := message_classes().get(event.type)) is None:
        raise InvalidRequest(f"there is no event type {event.type!r}")
    known = {name: value for name, value in event.data.items() if name in cls.DESCRIPTOR.fields_by_name}
    return from_json(known, cls)
