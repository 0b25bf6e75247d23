"""One connection of the HTTP/1.1 client, and the response that it reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

IDLE_SECONDS = 15.0
"""A connection is used again up to this long after its last response."""
MAX_UNREAD_BYTES = 256 << 10
"""With more of a body than this unread, a connection is not read any further."""
MAX_HEAD_BYTES = 64 << 10
INFORMATIONAL = range(100, 200)

Place = tuple[str, int]
"""Host and port, or the path of a Unix socket and 0."""


class Stale(ConnectionError):
    """The connection ended before the first byte of the response."""


class Response:
    """The answer to one request; its body is read as it comes."""

    def __init__(self, connection: Connection) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        """By their names in lower case."""
        self._connection = connection
        self._unread: list[bytes] = []
        self._size = 0
        self._ended = False
        self._failure: type[ConnectionError] | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def content(self) -> Response:
        """The body."""
        return self

    def at_eof(self) -> bool:
        """Tell whether the whole body has been read."""
        return self._ended and not self._unread

    def read_nowait(self) -> bytes:
        """Return what has come of the body since it was last read."""
        if not self._unread:
            return b""
        data = b"".join(self._unread)
        self._unread, self._size = [], 0
        self._connection.read_on()
        return data

    async def readany(self) -> bytes:
        """Return what comes next of the body; empty at its end.

        Raises:
            ConnectionError: the connection ended before the body.
        """
        while not self._unread and not self._ended:
            await self.wait()
        return self.read_nowait()

    async def read(self, max_bytes: int) -> bytes:
        """Return what comes next of the body, up to so many bytes; raises as `readany` does."""
        data = await self.readany()
        if rest := data[max_bytes:]:
            self._unread, self._size = [rest, *self._unread], len(rest) + self._size
        return data[:max_bytes]

    def close(self) -> None:
        """Read no more: a connection with a response that is not whole ends."""
        if not self._ended:
            self._connection.abort()

    async def wait(self) -> None:
        """Return when more of the response has come."""
        if self._failure:
            raise self._failure("the connection ended before the response")
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def begun(self, status: int) -> None:
        """Take the status; the headers are there."""
        self.status = status
        self._wake()

    def add(self, data: bytes) -> int:
        """Take a part of the body; return how much is unread."""
        self._unread.append(data)
        self._size += len(data)
        self._wake()
        return self._size

    def end(self, failure: type[ConnectionError] | None = None) -> None:
        """Take the end of the response, which is whole unless it failed."""
        self._ended, self._failure = failure is None, failure
        self._wake()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)


class Connection(asyncio.Protocol):
    """One connection, with one response at a time. The parser calls the methods that begin with `on_`.

    `opened` and `lost` are called at its beginning and end, `free` when a further request may be sent.
    """

    def __init__(self, address: Place, opened: Event, free: Event, lost: Event) -> None:
        self.address = address
        self._opened, self._free, self._lost = opened, free, lost
        self._parser = httptools.HttpResponseParser(self)
        self._response: Response | None = None
        self._received = 0
        self._has_length = self._paused = self._aborted = False
        self._idle_since = 0.0

    def usable(self, now: float) -> bool:
        """Tell whether a further request may be sent."""
        return not self._transport.is_closing() and now - self._idle_since < IDLE_SECONDS

    async def send(self, message: bytes) -> Response:
        """Send a request and return the response when its head has come."""
        self._response = response = Response(self)
        self._received = 0
        self._transport.write(message)
        try:
            while not response.status:
                await response.wait()
        except BaseException:
            self.abort()
            raise
        return response

    def abort(self) -> None:
        """End the connection at once."""
        self._aborted = True
        self._transport.abort()

    def read_on(self) -> None:
        """Go on reading after a pause."""
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self._opened(self)

    def data_received(self, data: bytes) -> None:
        """Parse what has come. What is no part of a response that was asked for ends the connection."""
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.abort()
        if self._response and not self._response.status and self._received > MAX_HEAD_BYTES:
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """End. The end of the connection is that of a body whose length was not said."""
        self._lost(self)
        if (response := self._response) is None:
            return
        self._response = None
        if response.status and not (self._has_length or self._aborted or error):
            response.end()
        else:
            response.end(ConnectionError if self._received else Stale)

    def on_message_begin(self) -> None:
        """Take the beginning of a response."""
        if self._response is None:
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        if self._response:
            self._response.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Take the end of the head."""
        if self._response is None or (status := self._parser.get_status_code()) in INFORMATIONAL:
            return
        headers = self._response.headers
        self._has_length = "content-length" in headers or "transfer-encoding" in headers
        if headers.get("content-encoding", "identity") != "identity":
            self.abort()  # nobody asked for it
            return
        self._response.begun(status)

    def on_body(self, data: bytes) -> None:
        """Take a part of the body."""
        if self._response and self._response.add(data) > MAX_UNREAD_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """Take the end of a response; the connection is free for the next one."""
        if (response := self._response) is None:
            return
        if not response.status:  # there is another one after an informational one
            response.headers.clear()
            return
        self._response = None
        response.end()
        if not self._parser.should_keep_alive():
            self._transport.close()
            return
        self.read_on()
        self._idle_since = asyncio.get_running_loop().time()
        self._free(self)


Event = Callable[[Connection], None]
