"""Server-sent events: sends the messages of a stream, keep-alive comments, and a final event with the outcome."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import orjson
from google.protobuf.message import Message
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from drw.kernel.errors import DrwError, http_body
from drw.kernel.observability import outcomes
from drw.kernel.rpc.json_messages import to_json
from drw.kernel.rpc.transport import translated_errors

FIRST_EVENT_SECONDS = 5.0
"""How long a response waits for its first message. An error until then is an ordinary error response."""
KEEP_ALIVE_SECONDS = 15.0
"""Interval of keep-alive comments, so that proxies do not close idle streams."""

DONE = b"event: done\ndata: {}\n\n"
KEEP_ALIVE = b": nothing yet\n\n"
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


async def stream_response(messages: AsyncIterator[Message], service: str, method: str) -> StreamingResponse:
    """Return the messages as a streaming HTTP response.

    Raises:
        DrwError: the stream failed before its first message.
    """
    reader = _Reader(messages, service, method)
    try:
        first = await reader.next(FIRST_EVENT_SECONDS)
    except BaseException:
        await reader.close()
        raise
    return _EventStreamResponse(reader, first)


class _Reader:
    """Reads a stream in its own task, which closes it when the client disconnects."""

    def __init__(self, messages: AsyncIterator[Message], service: str, method: str) -> None:
        self._messages = messages
        self._service = service
        self._method = method
        self._queue: asyncio.Queue[bytes | DrwError | None] = asyncio.Queue(1)
        self._task = asyncio.create_task(self._read(), name=f"events of {service}.{method}")

    async def next(self, seconds: float) -> bytes | None:
        """Return the next event, or a keep-alive comment after so many seconds; None at the end."""
        try:
            async with asyncio.timeout(seconds):
                item = await self._queue.get()
        except TimeoutError:
            return KEEP_ALIVE
        if isinstance(item, DrwError):
            raise item
        return item

    async def close(self) -> None:
        """Stop reading."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self) -> None:
        try:
            with translated_errors(self._service, self._method):
                async with aclosing(self._messages) as messages:  # type: ignore[type-var]
                    async for message in messages:
                        await self._queue.put(_encode_event(message))
            await self._queue.put(None)
        except DrwError as error:
            await self._queue.put(error)


class _EventStreamResponse(StreamingResponse):
    def __init__(self, reader: _Reader, first: bytes | None) -> None:
        super().__init__(_event_chunks(reader, first), media_type="text/event-stream", headers=HEADERS)
        self._reader = reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._reader.close()


async def _event_chunks(reader: _Reader, first: bytes | None) -> AsyncIterator[bytes]:
    chunk = first
    try:
        while chunk is not None:
            yield chunk
            chunk = await reader.next(KEEP_ALIVE_SECONDS)
        yield DONE
    except DrwError as error:
        outcomes.report_failure(error)
        yield b"event: error\ndata: " + orjson.dumps(http_body(error)) + b"\n\n"


def _encode_event(message: Message) -> bytes:
    event_id = getattr(message, "event_id", "")
    head = f"id: {event_id}\n".encode() if event_id else b""
    return head + b"data: " + orjson.dumps(to_json(message)) + b"\n\n"
