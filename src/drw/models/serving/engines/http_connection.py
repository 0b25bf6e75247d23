"""Connection of the HTTP/1.1 client, and the response that it parses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

IDLE_SECONDS = 15.0
"""Maximum idle time of a pooled connection."""
MAX_UNREAD_BYTES = 256 << 10
"""Above this many unread bytes of a body, reading from the socket pauses."""
MAX_HEAD_BYTES = 64 << 10
INFORMATIONAL = range(100, 200)

Address = tuple[str, int]
"""Host and port, or the path of a Unix socket and 0."""


class StaleConnection(ConnectionError):
    """The peer closed the connection before the first byte of the response."""


class Response:
    """The response to one request; its body can be read while it arrives."""

    def __init__(self, connection: Connection) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        """Headers by lower-case name."""
        self._connection = connection
        self._unread: list[bytes] = []
        self._unread_bytes = 0
        self._complete = False
        self._failure: type[ConnectionError] | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def content(self) -> Response:
        """The body."""
        return self

    def at_eof(self) -> bool:
        """Return whether the whole body was read."""
        return self._complete and not self._unread

    def read_nowait(self) -> bytes:
        """Return the bytes that arrived since the last read, possibly none."""
        if not self._unread:
            return b""
        data = b"".join(self._unread)
        self._unread, self._unread_bytes = [], 0
        self._connection.resume_reading()
        return data

    async def readany(self) -> bytes:
        """Wait for the next bytes of the body; empty at its end.

        Raises:
            ConnectionError: the connection ended before the body was complete.
        """
        while not self._unread and not self._complete:
            await self.wait()
        return self.read_nowait()

    async def read(self, max_bytes: int) -> bytes:
        """Wait for the next bytes of the body, at most `max_bytes`; raises as `readany` does."""
        data = await self.readany()
        if remainder := data[max_bytes:]:
            self._unread, self._unread_bytes = [remainder, *self._unread], len(remainder) + self._unread_bytes
        return data[:max_bytes]

    def close(self) -> None:
        """Stop reading; aborts the connection of an incomplete response."""
        if not self._complete:
            self._connection.abort()

    async def wait(self) -> None:
        """Wait until more of the response arrives."""
        if self._failure:
            raise self._failure("the connection ended before the response")
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def start(self, status: int) -> None:
        """Set the status; the headers are complete."""
        self.status = status
        self._wake()

    def feed(self, data: bytes) -> int:
        """Add bytes of the body; return the number of unread bytes."""
        self._unread.append(data)
        self._unread_bytes += len(data)
        self._wake()
        return self._unread_bytes

    def end(self, failure: type[ConnectionError] | None = None) -> None:
        """End the response; without a failure it is complete."""
        self._complete, self._failure = failure is None, failure
        self._wake()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)


class Connection(asyncio.Protocol):
    """One connection, with one response at a time. The parser calls the methods that start with `on_`.

    The callbacks `on_open` and `on_close` are called when it opens and closes, `on_release` when it is idle.
    """

    def __init__(self, address: Address, on_open: Callback, on_release: Callback, on_close: Callback) -> None:
        self.address = address
        self._on_open, self._on_release, self._on_close = on_open, on_release, on_close
        self._parser = httptools.HttpResponseParser(self)
        self._response: Response | None = None
        self._received = 0
        self._has_length = self._paused = self._aborted = False
        self._idle_since = 0.0

    def usable(self, now: float) -> bool:
        """Return whether another request can be sent."""
        return not self._transport.is_closing() and now - self._idle_since < IDLE_SECONDS

    async def send(self, request: bytes) -> Response:
        """Send a request and return the response after its headers arrived."""
        self._response = response = Response(self)
        self._received = 0
        self._transport.write(request)
        try:
            while not response.status:
                await response.wait()
        except BaseException:
            self.abort()
            raise
        return response

    def abort(self) -> None:
        """Close the connection immediately."""
        self._aborted = True
        self._transport.abort()

    def resume_reading(self) -> None:
        """Resume reading from the socket after a pause."""
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport of the new connection."""
        self._transport = cast(asyncio.Transport, transport)
        self._on_open(self)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes. Unexpected or malformed data aborts the connection."""
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.abort()
        if self._response and not self._response.status and self._received > MAX_HEAD_BYTES:
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """End the response. Without a length, the end of the connection completes the body."""
        self._on_close(self)
        if (response := self._response) is None:
            return
        self._response = None
        if response.status and not (self._has_length or self._aborted or error):
            response.end()
        else:
            response.end(ConnectionError if self._received else StaleConnection)

    def on_message_begin(self) -> None:
        """Abort on a response without a request."""
        if self._response is None:
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header."""
        if self._response:
            self._response.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Start the response, except for informational ones."""
        if self._response is None or (status := self._parser.get_status_code()) in INFORMATIONAL:
            return
        headers = self._response.headers
        self._has_length = "content-length" in headers or "transfer-encoding" in headers
        if headers.get("content-encoding", "identity") != "identity":
            self.abort()  # not requested
            return
        self._response.start(status)

    def on_body(self, data: bytes) -> None:
        """Add bytes of the body; pause reading above the limit of unread bytes."""
        if self._response and self._response.feed(data) > MAX_UNREAD_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """End the response and release the connection."""
        if (response := self._response) is None:
            return
        if not response.status:  # after an informational response another one follows
            response.headers.clear()
            return
        self._response = None
        response.end()
        if not self._parser.should_keep_alive():
            self._transport.close()
            return
        self.resume_reading()
        self._idle_since = asyncio.get_running_loop().time()
        self._on_release(self)


Callback = Callable[[Connection], None]
