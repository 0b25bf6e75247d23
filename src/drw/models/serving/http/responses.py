"""One HTTP request and its response in plain ASGI, since this is the hot path."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from drw.kernel.errors import ClientDisconnected, DrwError, TooLarge, http_body
from drw.kernel.observability import outcomes
from drw.kernel.observability.overhead import BLOCKED_SECONDS, add_wait
from drw.kernel.observability.telemetry import ERROR_TYPE, loggable

JSON = (b"content-type", b"application/json")
EVENTS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store"))


class HttpExchange:
    """One HTTP request and its response."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._response_started = False
        self.headers: list[tuple[bytes, bytes]] = []
        """Additional response headers; set them before the response starts."""
        self.error_event: Callable[[DrwError], bytes] = _openai_event
        """Returns the event of an error after the start of a stream."""

    @property
    def path_params(self) -> dict[str, str]:
        """The parameters of the path."""
        params: dict[str, str] = self._scope["path_params"]
        return params

    def header(self, name: bytes) -> str:
        """Return a request header by its lower-case name, or an empty string."""
        return next((value.decode("latin-1") for key, value in self._scope["headers"] if key == name), "")

    async def body(self, limit: int, reserve_bytes: Callable[[int], None]) -> bytes:
        """Return the body of the request; `reserve_bytes` is called for each part before it is stored.

        Raises:
            TooLarge: the body has more than `limit` bytes. If `content-length` says so, nothing is read.
        """
        chunks, size, has_more = [], 0, True
        if (content_length := self.header(b"content-length")).isdecimal() and int(content_length) > limit:
            raise TooLarge(f"the body has more than {limit} bytes")
        while has_more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise TooLarge(f"the body has more than {limit} bytes")
            reserve_bytes(len(chunk))
            chunks.append(chunk)
            has_more = message.get("more_body", False)
        return b"".join(chunks)

    @contextmanager
    def while_connected(self) -> Iterator[None]:
        """Run the block, and raise `ClientDisconnected` in it when the client disconnects."""
        task = asyncio.current_task()
        assert task is not None
        client_gone = False

        async def watch() -> None:
            nonlocal client_gone
            while (await self._receive())["type"] != "http.disconnect":
                pass
            client_gone = True
            task.cancel()

        watcher = asyncio.create_task(watch())
        try:
            yield
        except asyncio.CancelledError:
            if client_gone and task.uncancel() == 0:
                raise ClientDisconnected from None
            raise
        finally:
            watcher.cancel()

    def log(self, fields: dict[str, Any]) -> None:
        """Add fields to the log line of the request."""
        self._scope["state"]["log"].update(fields)

    async def send_response(self, body: bytes, model: str, content_type: tuple[bytes, bytes] = JSON) -> None:
        """Send a complete response."""
        headers = [content_type, (b"content-length", b"%d" % len(body)), (b"x-drw-model", model.encode())]
        self._response_started = True
        headers += self.headers
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def start_stream(self, model: str) -> None:
        """Start a stream of server-sent events."""
        headers = [*EVENTS, (b"x-drw-model", model.encode()), *self.headers]
        self._response_started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def send_event(self, data: bytes) -> None:
        """Send one event."""
        started_at = perf_counter()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        if (seconds := perf_counter() - started_at) > BLOCKED_SECONDS:
            add_wait("client", seconds)

    async def end_stream(self, last: bytes) -> None:
        """Send the last event."""
        await self._send({"type": "http.response.body", "body": last})

    async def fail(self, error: DrwError) -> None:
        """Send the error as an event if the response has started; otherwise raise it."""
        if not self._response_started:
            try:
                raise error
            finally:
                del error  # it refers to this frame
        self.log({ERROR_TYPE: error.reason, "error": loggable(error)})
        outcomes.report_failure(error)
        await self.end_stream(self.error_event(error))


def _openai_event(error: DrwError) -> bytes:
    return b"data: " + orjson.dumps(http_body(error)) + b"\n\n"
