"""Streaming decoder of request bodies with a content encoding, so that limits apply to the decoded size."""

from __future__ import annotations

import asyncio
import zlib

from starlette.types import Message, Receive

from drw.kernel.errors import InvalidRequest, UnsupportedEncoding

WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""Supported encodings (RFC 9110, 8.4.1) with zlib's window bits."""
MAX_CHUNK_BYTES = 1 << 16
"""Maximum decoded bytes per chunk: a body can expand a thousandfold."""


def decoded(receive: Receive, encoding: str) -> Receive:
    """Return a receive function that yields the decoded body.

    Raises:
        UnsupportedEncoding: the encoding is not supported, or there are several.
    """
    if encoding == "identity":
        return receive
    if encoding not in WINDOW_BITS:
        message = f"Content-Encoding is {encoding[:100]!r}; it can be gzip or deflate, or left out"
        raise UnsupportedEncoding(message, **{"accept-encoding": "gzip, deflate"})
    return _DecodingReceive(receive, encoding)


class _DecodingReceive:
    """Receive function that decodes the body of a request."""

    def __init__(self, receive: Receive, encoding: str) -> None:
        self._receive = receive
        self._encoding = encoding
        self._decoder = zlib.decompressobj(WINDOW_BITS[encoding])
        self._unconsumed = b""
        self._output_pending = False
        """Whether the last chunk was full, so that more output can follow without further input."""
        self._more_body = True
        self._finished = False

    async def __call__(self) -> Message:
        while not self._finished:
            if self._unconsumed or self._output_pending:
                await asyncio.sleep(0)  # decoding a large body must not block the event loop
                return {"type": "http.request", "body": self._decode_chunk(), "more_body": True}
            if not self._more_body:
                return self._finish()
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._more_body = message.get("more_body", False)
            self._unconsumed = message.get("body", b"")
        return await self._receive()

    def _decode_chunk(self) -> bytes:
        try:
            chunk = self._decoder.decompress(self._unconsumed, MAX_CHUNK_BYTES)
        except zlib.error as error:
            raise InvalidRequest(f"the body is not {self._encoding}: {error}") from error
        if self._decoder.unused_data:
            raise InvalidRequest(f"the body continues after the end of the {self._encoding} data")
        self._unconsumed = self._decoder.unconsumed_tail
        self._output_pending = len(chunk) == MAX_CHUNK_BYTES
        return chunk

    def _finish(self) -> Message:
        if not self._decoder.eof:
            raise InvalidRequest(f"the body ends before the end of the {self._encoding} data")
        self._finished = True
        return {"type": "http.request", "body": b"", "more_body": False}
