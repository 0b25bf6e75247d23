"""The event bus in Valkey: one stream, one consumer group for each consumer.

One process of a consumer receives at a time, under a lease, so that events stay in order. If a live process loses its
lease, such as after a pause, the next one receives its events too: the inbox ignores those that were applied, and its
rows make the second process wait for the first. Valkey can lose its data; the
relay then sends retained events again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from drw.catalog import EVENT_TYPES
from drw.events.event import Event, MalformedEvent
from drw.events.ports import Delivery, EventBus, Subscription
from drw.kernel.errors import Unavailable
from drw.kernel.runtime.settings import Profile

STREAM = "drw:events"
GENERATION = "drw:events:generation"
FIELD = b"e"
TIMEOUT_SECONDS = 5.0
MAX_WAIT_SECONDS = 2.0
BATCH_SIZE = 100
LEASE_SECONDS = 3.0
"""Time after which another process of a consumer takes over from a dead or frozen one, with its pending events."""
RENEW_SECONDS = 0.5
"""Interval at which a live process extends its lease, also while it applies events for long."""
CONSUMER = "one"
"""All processes of a group use one name, so that the next one finds the pending events of the last one."""

RECEIVE_SCRIPT = """
local owner = redis.call('GET', KEYS[2])
if owner and owner ~= ARGV[1] then return {0, false} end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
local from = '>'
if not owner or ARGV[5] == '1' then from = '0' end
local found = redis.call('XREADGROUP', 'GROUP', ARGV[3], 'one', 'COUNT', ARGV[4], 'STREAMS', KEYS[1], from)
if from == '0' and (not found or #found[1][2] == 0) then
    return {1, redis.call('XREADGROUP', 'GROUP', ARGV[3], 'one', 'COUNT', ARGV[4], 'STREAMS', KEYS[1], '>')}
end
if from == '0' then return {2, found} end
return {1, found}
"""
"""Takes or extends the lease and reads: pending events first (2), then new ones (1); without the lease, nothing (0).

A single script: a process that was frozen between both would take events from the next owner of the lease.
"""
RENEW_SCRIPT = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end"
RELEASE_SCRIPT = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class ValkeyBus(EventBus):
    """Stores events in a stream."""

    durable = False

    def __init__(self, url: str, max_events: int, consumers: frozenset[str]) -> None:
        self._max_events = max_events
        self._consumers = consumers
        self._redis = Redis.from_url(
            url,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 1),  # for a pooled connection to a restarted Valkey
            protocol=2,
        )

    async def publish(self, events: Sequence[Event]) -> None:
        """Implement the port."""
        with _translated_errors():
            await self._check_backlog(len(events))
            # A transaction: a part of the batch would leave a gap if a later batch came first.
            async with self._redis.pipeline(transaction=True) as pipeline:
                for event in events:
                    pipeline.xadd(STREAM, {FIELD: event.to_json()}, maxlen=self._max_events, approximate=True)
                await pipeline.execute()

    async def subscribe(self, consumer: str) -> Subscription:
        """Implement the port."""
        return _ValkeySubscription(self._redis, consumer)

    async def generation(self) -> str:
        """Implement the port."""
        with _translated_errors():
            await self._redis.set(GENERATION, uuid4().hex, nx=True)
            value: Any = await self._redis.get(GENERATION)
        return str(value.decode())

    async def close(self) -> None:
        """Implement the port."""
        await self._redis.aclose()

    async def _check_backlog(self, count: int) -> None:
        """Check that no consumer loses events, and delete the groups of consumers that no longer exist."""
        if not await self._redis.exists(STREAM):
            return
        groups: Any = await self._redis.xinfo_groups(STREAM)
        for group in groups:
            name = group["name"].decode()
            if name not in self._consumers:
                await self._redis.xgroup_destroy(STREAM, name)
            elif (behind := (group["lag"] or 0) + group["pending"]) + count > self._max_events:
                raise Unavailable(f"the consumer {name!r} is {behind} events behind: events wait in the outbox")


class _ValkeySubscription(Subscription):
    def __init__(self, redis: Redis, consumer: str) -> None:
        self._redis = redis
        self._group = consumer
        self._lease_key = f"drw:events:lease:{consumer}"
        self._token = uuid4().hex
        self._pending = True
        self._receive = redis.register_script(RECEIVE_SCRIPT)
        self._release = redis.register_script(RELEASE_SCRIPT)
        self._renew = redis.register_script(RENEW_SCRIPT)
        self._renewal = asyncio.create_task(self._renew_lease(), name=f"lease of {consumer}")

    async def fetch(self, seconds: float) -> Sequence[Delivery]:
        wait = min(seconds, MAX_WAIT_SECONDS)
        with _translated_errors():
            owned, deliveries = await self._read()
            if deliveries:
                return deliveries
            if not owned:
                await asyncio.sleep(wait)
                return []
            newest: Any = await self._redis.xrevrange(STREAM, count=1)
            _, deliveries = await self._read()
            if not deliveries:  # nothing between both reads, so that an event after the newest one ends the wait
                last = newest[0][0] if newest else "0-0"
                await self._redis.xread({STREAM: last}, count=1, block=max(1, int(wait * 1000)))
                _, deliveries = await self._read()
        return deliveries

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        with _translated_errors():
            await self._redis.xack(STREAM, self._group, *(delivery.token for delivery in deliveries))

    async def close(self) -> None:
        self._renewal.cancel()
        with suppress(RedisError, OSError, TimeoutError):  # the lease expires
            await self._release(keys=[self._lease_key], args=[self._token])

    async def _renew_lease(self) -> None:
        """Extend the lease until cancelled, if this process has it. A frozen process does not, and loses it."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            with suppress(RedisError, OSError, TimeoutError):
                await self._renew(keys=[self._lease_key], args=[self._token, _milliseconds(LEASE_SECONDS)])

    async def _read(self) -> tuple[bool, list[Delivery]]:
        """Return whether this process has the lease, and the next events."""
        arguments: list[Any] = [self._token, _milliseconds(LEASE_SECONDS), self._group, BATCH_SIZE, int(self._pending)]
        try:
            result: Any = await self._receive(keys=[STREAM, self._lease_key], args=arguments)
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self._create_group()
            return True, []
        self._pending = result[0] != 1
        entries = result[1][0][1] if result[1] else []
        return result[0] != 0, [_delivery(id_, fields) for id_, fields in entries]

    async def _create_group(self) -> None:
        try:
            await self._redis.xgroup_create(STREAM, self._group, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise


def connect(profile: Profile) -> ValkeyBus:
    """Return the bus of a profile."""
    consumers = frozenset(consumer for event in EVENT_TYPES for consumer in event.consumers)
    return ValkeyBus(profile.valkey, profile.bus.valkey.max_events, consumers)


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _delivery(id_: bytes, fields: list[bytes] | None) -> Delivery:
    values = dict(zip(fields[::2], fields[1::2], strict=True)) if fields else {}  # None: trimmed
    raw = values.get(FIELD, b"")
    try:
        return Delivery(Event.from_json(raw), b"", id_)
    except MalformedEvent:
        return Delivery(None, raw, id_)


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except (RedisError, TimeoutError, OSError) as error:
        raise Unavailable(f"the event bus is unavailable: Valkey does not answer ({error})", part="valkey") from error
