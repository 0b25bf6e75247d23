"""The live view in Valkey: one stream per run, with event numbers as entry ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from drw.api.workflow.v1.state_pb2 import RunEvent
from drw.kernel.errors import Unavailable
from drw.kernel.runtime import settings
from drw.workflow.state.ports import LiveView, RunKey

TIMEOUT_SECONDS = 5.0
BATCH_SIZE = 200
EVENT_FIELD = b"e"
APPEND_SCRIPT = """
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local last = newest and tonumber(string.match(newest[1], '^%d+')) or 0
local number = tonumber(ARGV[1])
if number <= last then return 1 end
if number > last + 1 then return 0 end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], number .. '-0', 'e', ARGV[2])
return 1
"""
"""Appends an event after its predecessor: 1 if it is stored (now or before), 0 if the predecessor is missing.

A single script, so that concurrent restore and append leave no gap.
"""


class ValkeyView(LiveView):
    """Stores streams. Entry ids must grow, which makes appending idempotent."""

    class Settings(settings.Settings):
        """Valkey address and limits."""

        url: str
        max_events: int = 10_000
        """Events per run; the oldest are dropped first."""
        max_connections: int = 256
        """Connections. Each watcher uses one while it waits."""

    def __init__(self, settings: Settings) -> None:
        self._max_events = settings.max_events
        self._redis = Redis.from_url(
            settings.url,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            max_connections=settings.max_connections,
            retry=Retry(NoBackoff(), 1),  # for a pooled connection to a restarted Valkey
            protocol=2,
        )
        self._append = self._redis.register_script(APPEND_SCRIPT)

    async def append(self, key: RunKey, event: RunEvent) -> bool:
        """Implement the port."""
        with _translated_errors():
            return bool(await self._append(keys=[_stream(key)], args=self._arguments(event)))

    async def restore(self, key: RunKey, events: Sequence[RunEvent]) -> None:
        """Implement the port."""
        with _translated_errors():
            for start in range(0, len(events), BATCH_SIZE):
                async with self._redis.pipeline(transaction=False) as pipeline:
                    for event in events[start : start + BATCH_SIZE]:
                        await self._append(keys=[_stream(key)], args=self._arguments(event), client=pipeline)
                    await pipeline.execute()

    async def latest(self, key: RunKey) -> RunEvent | None:
        """Implement the port."""
        with _translated_errors():
            entries = await self._redis.xrevrange(_stream(key), count=1)
        return _event(entries[0]) if entries else None

    async def events_after(self, key: RunKey, number: int, seconds: float) -> Sequence[RunEvent]:
        """Implement the port."""
        wait = min(max(1, int(seconds * 1000)), int(TIMEOUT_SECONDS * 500))
        with _translated_errors():
            streams: Any = await self._redis.xread({_stream(key): f"{number}-0"}, count=BATCH_SIZE, block=wait)
        return [_event(entry) for _, entries in streams or () for entry in entries]

    async def expire(self, key: RunKey, seconds: int) -> None:
        """Implement the port."""
        with _translated_errors():
            await self._redis.expire(_stream(key), seconds)

    async def ping(self) -> None:
        """Implement the port."""
        with _translated_errors():
            await self._redis.exists("drw:run")

    async def close(self) -> None:
        """Implement the port."""
        await self._redis.aclose()

    def _arguments(self, event: RunEvent) -> list[Any]:
        return [int(event.event_id), event.SerializeToString(), self._max_events]


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except (RedisError, TimeoutError, OSError) as error:
        raise Unavailable(
            f"the live view of runs is unavailable: Valkey does not answer ({error})", part="valkey"
        ) from error


def _stream(key: RunKey) -> str:
    return ":".join(["drw", "run", *(quote(part, safe="") for part in (key.org, key.desk, key.run))])


def _event(entry: Any) -> RunEvent:
    return RunEvent.FromString(entry[1][EVENT_FIELD])
