"""Events: relays events to the event bus, and streams them to operators."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial

from prometheus_client import Gauge

from drw.api.bus.v1 import events_rpc as contract
from drw.api.bus.v1.events_pb2 import (
    Event,
    ListParkedEventsRequest,
    ListParkedEventsResponse,
    RedriveParkedEventsRequest,
    RedriveParkedEventsResponse,
    TailEventsRequest,
)
from drw.bus.events import parked_events
from drw.bus.events.event_log import INTERVAL_SECONDS, EventLog
from drw.bus.events.parked_events import ParkedEvents
from drw.bus.events.settings import Settings
from drw.catalog import EVENT_TYPES, consumed_by
from drw.events.connection import connect, consume
from drw.events.relay import OutboxRelay
from drw.events.retention import Retention
from drw.kernel.errors import InvalidRequest, RateLimited, Unavailable
from drw.kernel.rpc import context
from drw.kernel.rpc.json_messages import json_message
from drw.kernel.runtime.host import ServiceContext
from drw.kernel.storage.database import Database

DEFAULT_PAGE_SIZE = 50
TYPES = tuple(event.type for event in EVENT_TYPES)
WAITING = Gauge("drw_events_waiting", "Events in the outbox that the event bus has not accepted yet.")
OLDEST = Gauge("drw_events_oldest_seconds", "Age of the oldest event that the event bus has not accepted yet.")
BACKLOG = """
select count(*) as count, coalesce(extract(epoch from clock_timestamp() - min(created_at)), 0) as seconds
from (select created_at from bus.outbox where sent_at is null order by id limit 100000) as waiting
"""


class Events(contract.Events):
    """Serves `drw.api.bus.v1.Events`."""

    def __init__(self, log: EventLog, parked: ParkedEvents, settings: Settings) -> None:
        self._log = log
        self._parked = parked
        self._settings = settings
        self._tails: Counter[str] = Counter()

    async def tail_events(self, request: TailEventsRequest, /) -> AsyncIterator[Event]:
        """Yield events that the caller can see, after the last one or from now on."""
        principal = context.caller()
        if unknown := [name for name in request.types if name not in TYPES]:
            raise InvalidRequest(
                f"{unknown[0]!r} is not a type of events; there are: {', '.join(TYPES)}", param="types"
            )
        if self._tails[principal.org] >= (maximum := self._settings.max_tails_per_org):
            raise RateLimited(f"the org {principal.org!r} has {maximum} open streams of events: close one first")
        self._tails[principal.org] += 1
        try:
            after = int(request.last_event_id) if request.last_event_id else await self._log.newest()
            types = [e.type for e in EVENT_TYPES if e.scope in principal.scopes and e.type in (request.types or TYPES)]
            end = time.monotonic() + self._settings.max_tail_seconds
            yield Event(event_id=str(after))
            while time.monotonic() < end:
                change = self._log.next_change()
                rows = await self._log.page(principal, after, types)
                for row in rows:
                    yield _message(row)
                    after = row["number"]
                if rows:
                    continue
                seconds = min(self._settings.keepalive_seconds, max(0, end - time.monotonic()))
                if not await _is_set(change, seconds):
                    yield Event(event_id=str(after))
        finally:
            self._tails[principal.org] -= 1
            self._tails += Counter()  # removes orgs without streams

    async def list_parked_events(self, request: ListParkedEventsRequest, /) -> ListParkedEventsResponse:
        """Return a page of parked events that the caller can see."""
        size = request.page_size or DEFAULT_PAGE_SIZE
        rows = await self._parked.page(context.caller(), request, size + 1)
        token = str(rows[size - 1]["id"]) if len(rows) > size else ""
        return ListParkedEventsResponse(
            events=[parked_events.message(row) for row in rows[:size]], next_page_token=token
        )

    async def redrive_parked_events(self, request: RedriveParkedEventsRequest, /) -> RedriveParkedEventsResponse:
        """Let consumers apply parked events again."""
        return RedriveParkedEventsResponse(events=await self._parked.release(context.caller(), request))

    async def clean(self) -> None:
        """Delete old events periodically."""
        while True:
            await self._log.delete_old(self._settings.retention_days, self._settings.max_events)
            await asyncio.sleep(INTERVAL_SECONDS)


async def _is_set(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


def _message(row: dict[str, object]) -> Event:
    texts = {name: row[name] for name in ("id", "type", "source", "subject", "org", "desk", "walls", "actor")}
    message = Event(event_id=str(row["number"]), data=json_message(row["data"]), **texts)  # type: ignore[arg-type]
    message.time.FromDatetime(row["time"])  # type: ignore[arg-type]
    return message


async def _measure(database: Database) -> None:
    row = await database.one(BACKLOG)
    if row:
        WAITING.set(row["count"])
        OLDEST.set(float(row["seconds"]))


async def build(scope: ServiceContext) -> Events:
    """Build the service from its settings."""
    settings = scope.settings(Settings)
    database = await scope.database()
    log = EventLog(database)
    await consume(scope, database, {event.name: log.append for event in consumed_by(scope.name)})
    bus = connect(scope.profile)
    scope.on_stop(bus.close)
    relay = OutboxRelay(database, bus)
    service = Events(log, ParkedEvents(database, scope.audit()), settings)
    retention = Retention(database, scope.profile.bus.replay_seconds)
    for task in (relay.listen, relay.run, retention.run, log.listen, service.clean):
        scope.background(task)

    async def describe() -> str:
        if relay.error_message:
            raise Unavailable(f"events wait in the outbox: {relay.error_message}")
        parked = await database.one("select count(*) as count from bus.parked")
        return f"event bus in {scope.profile.bus.adapter}, {(parked or {'count': 0})['count']} parked events"

    scope.describe(describe)
    scope.on_scrape(partial(_measure, database))
    return service
