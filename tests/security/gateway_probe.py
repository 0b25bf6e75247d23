"""A gateway whose upstream records its requests, and a client that sends raw bytes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from agent.data_plane import GatewayHarness
from agent.doubles import DoubleCollector, DoubleModels

TIMEOUT_SECONDS = 10


class RecordingModels(DoubleModels):
    """Records every request that reaches the upstream."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Request] = []

    async def _answer(self, request: Request) -> Response:
        self.requests.append(request)
        return await super()._answer(request)


@dataclass
class GatewayProbe:
    """A gateway, the requests that reached its upstream, and its trace collector."""

    gateway: GatewayHarness
    models: RecordingModels
    collector: DoubleCollector
    secret: str = ""
    read_count: int = field(default=0)

    @property
    def new_requests(self) -> list[str]:
        """The requests that reached the upstream since the last read, like `GET /v1/models`."""
        new, self.read_count = self.models.requests[self.read_count :], len(self.models.requests)
        return [f"{request.method} {request.url.path}" for request in new]

    async def send(self, *chunks: bytes) -> list[int]:
        """Send these bytes on one connection and return the status of each response."""
        url = urlsplit(self.gateway.url)
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        try:
            writer.write(b"".join(chunks))
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return [status async for status in _read_statuses(reader)]
        finally:
            writer.close()

    def request(self, verb: str, path: str, *headers: bytes, body: bytes = b"", close: bool = True) -> bytes:
        """Return a request with the valid key and these header lines; without `close`, another request may follow."""
        lines = [f"{verb} {path} HTTP/1.1".encode(), b"host: drw", f"authorization: Bearer {self.secret}".encode()]
        return b"\r\n".join([*lines, *headers, *([b"connection: close"] if close else []), b"", body])


async def _read_statuses(reader: asyncio.StreamReader) -> AsyncIterator[int]:
    """Yield the status of each response up to the one with `connection: close`; Envoy closes a second later."""
    head = b""
    while b"connection: close" not in head:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
        except asyncio.IncompleteReadError:
            return
        yield int(head[9:12])
        if length := re.search(rb"content-length: (\d+)", head):
            await reader.readexactly(int(length[1]))
        elif b"transfer-encoding: chunked" in head:
            await reader.readuntil(b"\r\n0\r\n\r\n")
