"""Script runner for Valkey: concurrent scripts share one round trip over one connection."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha1
from typing import Any

import hiredis
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, NoScriptError, ResponseError

MAX_SCRIPTS = 64
"""Maximum scripts in one round trip."""


@dataclass(slots=True, eq=False)
class _Call:
    script: str
    args: Sequence[Any]
    packed: bytes
    end: float
    future: asyncio.Future[Any]


class ScriptRunner:
    """Runs scripts in batches. A batch without a response within `seconds` is sent a second time, because the
    connection may be dead, or this process was not scheduled. All scripts must be idempotent.
    """

    def __init__(self, url: str, seconds: float) -> None:
        # No timeout for each read: the exchange has one.
        options: dict[str, Any] = {"socket_timeout": None, "socket_connect_timeout": seconds, "protocol": 2}
        pool = ConnectionPool.from_url(url, **options, retry=Retry(NoBackoff(), 0))
        self._connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
        self._seconds = seconds
        self._waiting: deque[_Call] = deque()
        self._running: asyncio.Task[None] | None = None

    async def run(self, script: str, args: Sequence[Any]) -> Any:
        """Run a script and return its result. A script whose caller is cancelled before it is sent is not sent.

        Raises:
            RedisError: Valkey rejects the script, or cannot be reached.
            TimeoutError: Valkey does not respond in time.
        """
        loop = asyncio.get_running_loop()
        packed = hiredis.pack_command(("EVALSHA", _script_hash(script), 0, *args))
        call = _Call(script, args, packed, loop.time() + 2 * self._seconds, loop.create_future())
        self._waiting.append(call)
        if self._running is None:
            self._running = asyncio.create_task(self._run_all())
        timer = loop.call_at(call.end, _time_out, call)
        try:
            return await call.future
        finally:
            timer.cancel()

    async def close(self) -> None:
        """Fail all waiting scripts, and close the connection."""
        if self._running:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        while self._waiting:
            _fail([self._waiting.popleft()], ConnectionError("stopped"))
        await self._connection.disconnect()

    async def _run_all(self) -> None:
        try:
            while self._waiting:
                calls = [self._waiting.popleft() for _ in range(min(MAX_SCRIPTS, len(self._waiting)))]
                if calls := [call for call in calls if not call.future.done()]:
                    await self._run_together(calls)
        finally:
            self._running = None

    async def _run_together(self, calls: Sequence[_Call]) -> None:
        try:
            results = await self._exchange_with_retry(calls)
        except asyncio.CancelledError:
            _fail(calls, ConnectionError("stopped"))
            raise
        except Exception as error:  # noqa: BLE001 - every error is passed to the callers
            _fail(calls, error)
            return
        for call, result in zip(calls, results, strict=True):
            if isinstance(result, Exception):
                _fail([call], result)
            elif not call.future.done():
                call.future.set_result(result)

    async def _exchange_with_retry(self, calls: Sequence[_Call]) -> list[Any]:
        try:
            async with asyncio.timeout(self._seconds):
                return await self._exchange(calls)
        except (ConnectionError, TimeoutError):
            async with asyncio.timeout(self._seconds):
                return await self._exchange(calls)

    async def _exchange(self, calls: Sequence[_Call]) -> list[Any]:
        results = await self._send([call.packed for call in calls])
        missing = [i for i, result in enumerate(results) if isinstance(result, NoScriptError)]
        if missing:  # Valkey has restarted and caches the scripts again with `EVAL`
            retried = await self._send(
                [hiredis.pack_command(("EVAL", calls[i].script, 0, *calls[i].args)) for i in missing]
            )
            for i, result in zip(missing, retried, strict=True):
                results[i] = result
        return results

    async def _send(self, commands: Sequence[bytes]) -> list[Any]:
        """Return the result of each command, or its error."""
        await self._connection.send_packed_command(commands, check_health=False)
        return [await self._read() for _ in commands]

    async def _read(self) -> Any:
        try:
            return await self._connection.read_response()
        except ResponseError as error:
            return error


def _fail(calls: Sequence[_Call], error: Exception) -> None:
    for call in calls:
        if not call.future.done():
            call.future.set_exception(error)


def _time_out(call: _Call) -> None:
    _fail([call], TimeoutError())


@lru_cache(maxsize=64)
def _script_hash(script: str) -> str:
    return sha1(script.encode(), usedforsecurity=False).hexdigest()
