"""One request and its answer on the wire, without a framework's detours: this is the path that must be fast."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from drw.kernel.errors import ClientDisconnected, DrwError, TooLarge, http_body
from drw.kernel.observability.overhead import BLOCKED_SECONDS, add_wait
from drw.kernel.observability.telemetry import ERROR_TYPE, loggable

JSON = (b"content-type", b"application/json")
EVENTS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store"))


class HttpExchange:
    """One request and its answer on the wire."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._started = False
        self.headers: list[tuple[bytes, bytes]] = []
        """Further headers of the answer, to be put here before it begins."""

    def header(self, name: bytes) -> str:
        """Return a header of the request by its name in lower case, or an empty string."""
        return next((value.decode("latin-1") for key, value in self._scope["headers"] if key == name), "")

    async def body(self, limit: int, reserve_bytes: Callable[[int], None]) -> bytes:
        """Return the body of the request, each piece held before it is kept.

        Raises:
            TooLarge: it has more than `limit` bytes; by its `content-length`, nothing of it is read.
        """
        pieces, size, has_more = [], 0, True
        if (announced := self.header(b"content-length")).isdecimal() and int(announced) > limit:
            raise TooLarge(f"the body has more than {limit} bytes")
        while has_more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            piece = message.get("body", b"")
            size += len(piece)
            if size > limit:
                raise TooLarge(f"the body has more than {limit} bytes")
            reserve_bytes(len(piece))
            pieces.append(piece)
            has_more = message.get("more_body", False)
        return b"".join(pieces)

    @contextmanager
    def while_connected(self) -> Iterator[None]:
        """Run the block, and raise `ClientDisconnected` in it as soon as the caller is."""
        task = asyncio.current_task()
        assert task is not None
        gone = False

        async def watch() -> None:
            nonlocal gone
            while (await self._receive())["type"] != "http.disconnect":
                pass
            gone = True
            task.cancel()

        watching = asyncio.create_task(watch())
        try:
            yield
        except asyncio.CancelledError:
            if gone and task.uncancel() == 0:
                raise ClientDisconnected from None
            raise
        finally:
            watching.cancel()

    def log(self, fields: dict[str, Any]) -> None:
        """Add to the request's line of log."""
        self._scope["state"]["log"].update(fields)

    async def answer(self, body: bytes, model: str) -> None:
        """Send a whole answer."""
        headers = [JSON, (b"content-length", b"%d" % len(body)), (b"x-drw-model", model.encode())]
        self._started = True
        headers += self.headers
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def begin_events(self, model: str) -> None:
        """Begin a stream of events."""
        headers = [*EVENTS, (b"x-drw-model", model.encode()), *self.headers]
        self._started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def event(self, data: bytes) -> None:
        """Send one event."""
        began = perf_counter()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        if (seconds := perf_counter() - began) > BLOCKED_SECONDS:
            add_wait("client", seconds)

    async def end_events(self, last: bytes) -> None:
        """Send the last event."""
        await self._send({"type": "http.response.body", "body": last})

    async def fail(self, error: DrwError) -> None:
        """Send the error as an event where a stream has begun; raise it where nothing has been sent."""
        if not self._started:
            try:
                raise error
            finally:
                del error  # which knows this frame
        self.log({ERROR_TYPE: error.reason, "error": loggable(error)})
        await self.end_events(b"data: " + orjson.dumps(http_body(error)) + b"\n\n")
