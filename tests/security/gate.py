"""A front door whose upstream keeps what reaches it, and a client of it that sends raw bytes."""

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

SECONDS = 10


class RecordingModels(DoubleModels):
    """Keeps every request that reaches it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Request] = []

    async def _answer(self, request: Request) -> Response:
        self.seen.append(request)
        return await super()._answer(request)


@dataclass
class Gate:
    """The front door, what came through it, and where its traces go."""

    gateway: GatewayHarness
    models: RecordingModels
    collector: DoubleCollector
    secret: str = ""
    seen_before: int = field(default=0)

    @property
    def arrived(self) -> list[str]:
        """The requests that have reached the upstream since the last look, as in `GET /v1/models`."""
        new, self.seen_before = self.models.seen[self.seen_before :], len(self.models.seen)
        return [f"{request.method} {request.url.path}" for request in new]

    async def send(self, *parts: bytes) -> list[int]:
        """Send these bytes on one connection; return the statuses of all answers."""
        where = urlsplit(self.gateway.url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        try:
            writer.write(b"".join(parts))
            async with asyncio.timeout(SECONDS):
                return [status async for status in _statuses(reader)]
        finally:
            writer.close()

    def request(self, verb: str, path: str, *headers: bytes, body: bytes = b"", close: bool = True) -> bytes:
        """Return a request with the good key and these header lines; without `close`, another may follow."""
        lines = [f"{verb} {path} HTTP/1.1".encode(), b"host: drw", f"authorization: Bearer {self.secret}".encode()]
        return b"\r\n".join([*lines, *headers, *([b"connection: close"] if close else []), b"", body])


async def _statuses(reader: asyncio.StreamReader) -> AsyncIterator[int]:
    """The statuses of the answers, up to the one that says that it is the last: Envoy closes a second later."""
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
