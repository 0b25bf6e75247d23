"""Runs scripts in Valkey: scripts that wait at the same time share one round trip over one connection."""

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
"""Scripts in one exchange."""


@dataclass(slots=True, eq=False)
class _Call:
    script: str
    args: Sequence[Any]
    packed: bytes
    end: float
    answer: asyncio.Future[Any]


class ScriptRunner:
    """Asks for an answer twice, for `seconds` each, since it may be the connection that died, or this process that had
    no processor for so long. All scripts must be safe to run twice.
    """

    def __init__(self, url: str, seconds: float) -> None:
        # No timeout of its own for each read: the whole exchange has one.
        options: dict[str, Any] = {"socket_timeout": None, "socket_connect_timeout": seconds, "protocol": 2}
        pool = ConnectionPool.from_url(url, **options, retry=Retry(NoBackoff(), 0))
        self._connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
        self._seconds = seconds
        self._waiting: deque[_Call] = deque()
        self._running: asyncio.Task[None] | None = None

    async def run(self, script: str, args: Sequence[Any]) -> Any:
        """Return the result of a script. A script whose caller gave up before it is sent is not sent.

        Raises:
            RedisError: Valkey refuses it, or cannot be reached.
            TimeoutError: no answer in time.
        """
        loop = asyncio.get_running_loop()
        packed = hiredis.pack_command(("EVALSHA", _sha(script), 0, *args))
        call = _Call(script, args, packed, loop.time() + 2 * self._seconds, loop.create_future())
        self._waiting.append(call)
        if self._running is None:
            self._running = asyncio.create_task(self._run_all())
        late = loop.call_at(call.end, _give_up, call)
        try:
            return await call.answer
        finally:
            late.cancel()

    async def close(self) -> None:
        """Fail what is under way, and close the connection."""
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
                if calls := [call for call in calls if not call.answer.done()]:
                    await self._run_together(calls)
        finally:
            self._running = None

    async def _run_together(self, calls: Sequence[_Call]) -> None:
        try:
            answers = await self._exchange_or_again(calls)
        except asyncio.CancelledError:
            _fail(calls, ConnectionError("stopped"))
            raise
        except Exception as error:  # noqa: BLE001 - every caller must hear of it, whatever it is
            _fail(calls, error)
            return
        for call, answer in zip(calls, answers, strict=True):
            if isinstance(answer, Exception):
                _fail([call], answer)
            elif not call.answer.done():
                call.answer.set_result(answer)

    async def _exchange_or_again(self, calls: Sequence[_Call]) -> list[Any]:
        try:
            async with asyncio.timeout(self._seconds):
                return await self._exchange(calls)
        except (ConnectionError, TimeoutError):
            async with asyncio.timeout(self._seconds):
                return await self._exchange(calls)

    async def _exchange(self, calls: Sequence[_Call]) -> list[Any]:
        answers = await self._send([call.packed for call in calls])
        unknown = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:  # to Valkey after its start; it knows them from now on
            again = await self._send(
                [hiredis.pack_command(("EVAL", calls[i].script, 0, *calls[i].args)) for i in unknown]
            )
            for i, answer in zip(unknown, again, strict=True):
                answers[i] = answer
        return answers

    async def _send(self, commands: Sequence[bytes]) -> list[Any]:
        """Return the answer to each command, or the error with which Valkey refuses it alone."""
        await self._connection.send_packed_command(commands, check_health=False)
        return [await self._read() for _ in commands]

    async def _read(self) -> Any:
        try:
            return await self._connection.read_response()
        except ResponseError as refused:
            return refused


def _fail(calls: Sequence[_Call], error: Exception) -> None:
    for call in calls:
        if not call.answer.done():
            call.answer.set_exception(error)


def _give_up(call: _Call) -> None:
    _fail([call], TimeoutError())


@lru_cache(maxsize=64)
def _sha(script: str) -> str:
    return sha1(script.encode(), usedforsecurity=False).hexdigest()
