"""Write coalescing: joins the writes of one event loop iteration, such as head and body, into one system call."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_BUFFERED_BYTES = 65_536
"""A larger buffer is flushed immediately, so that the transport applies backpressure in time."""


class CoalescingTransport(asyncio.Transport):
    """A transport that buffers writes until the end of the event loop iteration."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._waiting: list[bytes] = []
        self._size = 0

    def write(self, data: Any) -> None:
        """Buffer data until the end of the event loop iteration."""
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(bytes(data))
        self._size += len(data)
        if self._size >= MAX_BUFFERED_BYTES:
            self._flush()

    def close(self) -> None:
        """Flush and close."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Return whether the transport is closed or closing."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return extra information of the transport."""
        return self._transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Set the protocol of the transport."""
        self._transport.set_protocol(protocol)

    def pause_reading(self) -> None:
        """Pause reading."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Resume reading."""
        self._transport.resume_reading()

    def _flush(self) -> None:
        waiting, self._waiting, self._size = self._waiting, [], 0
        if waiting and not self._transport.is_closing():
            self._transport.write(b"".join(waiting))


class HttpProtocol(HttpToolsProtocol):
    """Uvicorn's protocol over a coalescing transport."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wrap the transport of a new connection."""
        super().connection_made(CoalescingTransport(cast(asyncio.Transport, transport), self.loop))
