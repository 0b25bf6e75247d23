"""Decoding of request bodies with a content encoding, in pieces, so that limits apply to the decoded size."""

from __future__ import annotations

import asyncio
import zlib

from starlette.types import Message, Receive

from drw.kernel.errors import InvalidRequest, UnsupportedEncoding

WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""Supported encodings (RFC 9110, 8.4.1) with zlib's window bits."""
PIECE = 1 << 16
"""Maximum decoded bytes per piece: a body can expand a thousandfold."""


def decoded(receive: Receive, encoding: str) -> Receive:
    """Return a receive function that yields the decoded body.

    Raises:
        UnknownEncoding: the encoding is not supported, or there are several.
    """
    if encoding == "identity":
        return receive
    if encoding not in WINDOWS:
        message = f"Content-Encoding is {encoding[:100]!r}; it can be gzip or deflate, or left out"
        raise UnsupportedEncoding(message, **{"accept-encoding": "gzip, deflate"})
    return _Decoded(receive, encoding)


class _Decoded:
    """Gives the messages of a request with its body decoded."""

    def __init__(self, receive: Receive, encoding: str) -> None:
        self._receive = receive
        self._encoding = encoding
        self._decoder = zlib.decompressobj(WINDOWS[encoding])
        self._unconsumed = b""
        self._full = False
        """Whether the last piece was full, so that more output can follow without further input."""
        self._more_body = True
        self._done = False

    async def __call__(self) -> Message:
        while not self._done:
            if self._unconsumed or self._full:
                await asyncio.sleep(0)  # a body that grows is not all there is to do
                return {"type": "http.request", "body": self._piece(), "more_body": True}
            if not self._more_body:
                return self._end()
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._more_body = message.get("more_body", False)
            self._unconsumed = message.get("body", b"")
        return await self._receive()

    def _piece(self) -> bytes:
        try:
            piece = self._decoder.decompress(self._unconsumed, PIECE)
        except zlib.error as error:
            raise InvalidRequest(f"the body is not {self._encoding}: {error}") from error
        if self._decoder.unused_data:
            raise InvalidRequest(f"the body continues after the end of the {self._encoding} data")
        self._unconsumed = self._decoder.unconsumed_tail
        self._full = len(piece) == PIECE
        return piece

    def _end(self) -> Message:
        if not self._decoder.eof:
            raise InvalidRequest(f"the body ends before the end of the {self._encoding} data")
        self._done = True
        return {"type": "http.request", "body": b"", "more_body": False}
