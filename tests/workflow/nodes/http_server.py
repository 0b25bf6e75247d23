"""An HTTP server on a free port of this machine. It records its requests, and answers as their path says."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from support.json_types import Json


@dataclass(frozen=True)
class Received:
    """One request."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: str


@dataclass
class HttpServer:
    """The server. `/hold/NAME` answers once its gate is open; `answers` has the next statuses of a path."""

    port: int = 0
    closed_port: int = 0
    received: list[Received] = field(default_factory=list)
    answers: defaultdict[str, list[web.Response]] = field(default_factory=lambda: defaultdict(list))
    gates: defaultdict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def closed_url(self) -> str:
        """The address of a port that refuses connections."""
        return f"http://127.0.0.1:{self.closed_port}"

    def paths(self, method: str = "") -> list[str]:
        return [request.path for request in self.received if method in ("", request.method)]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = (await request.read()).decode()
        headers = {name.lower(): value for name, value in request.headers.items()}
        received = Received(request.method, request.path, dict(request.query), headers, body)
        self.received.append(received)
        if self.answers[request.path]:
            return self.answers[request.path].pop(0)
        match request.path.split("/")[1:]:
            case ["hold", *_]:
                await self.gates[request.path].wait()
            case ["drop", *_]:
                assert request.transport is not None
                request.transport.abort()
            case ["echo", *_]:
                return web.json_response({"headers": headers, "body": body, "query": dict(request.query)})
            case ["bomb"]:
                return await _endless(request)
            case ["gzip"]:
                content = gzip.compress(b"0" * 10_000_000)
                return web.Response(body=content, headers={"Content-Encoding": "gzip"})
            case ["nested"]:
                return web.json_response(text="[" * 500 + "]" * 500)
        return web.json_response({"id": len(self.received), "path": request.path})


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"0" * 65_536)


@asynccontextmanager
async def serve_http() -> AsyncIterator[HttpServer]:
    """Serve until the end of the block."""
    server = HttpServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        server.closed_port = closed.getsockname()[1]
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        for gate in server.gates.values():
            gate.set()
        await runner.cleanup()


def answer(status: int, value: Json = None, **headers: str) -> web.Response:
    """Return an answer with a JSON body."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return web.json_response(value, status=status, headers=named)
