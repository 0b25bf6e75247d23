"""HTTP/1.1 client for upstreams without TLS: POST requests over pooled connections to TCP ports and Unix sockets.

It uses a fraction of aiohttp's CPU time: no redirects, cookies, proxies or compression. It retries once, on a new
connection, if the upstream has closed a pooled connection.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from itertools import count

from yarl import URL

from drw.models.serving.engines.http_connection import IDLE_SECONDS, Address, Connection, Response, StaleConnection


class HttpClient:
    """Sends requests over a pool of connections."""

    def __init__(self, connect_seconds: float) -> None:
        self._connect_seconds = connect_seconds
        self._rotation = count()
        self._idle: dict[Address, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._expiry: asyncio.TimerHandle | None = None

    async def post(
        self, url: URL, headers: Mapping[str, str], body: bytes, *, path: str = "", connect_seconds: float = 0
    ) -> Response:
        """Return the response after its headers arrived; the caller closes it. `path` is the path of a Unix socket.

        Raises:
            ConnectionError: the connection failed or ended, or the response is not HTTP.
            ValueError: a header has a line break.
        """
        request = _encode_request(url, headers, body)
        address = (path, 0) if path else (url.raw_host or "", url.port or 80)
        if (idle_connection := self._idle_connection(address)) is not None:
            with suppress(StaleConnection):
                return await idle_connection.send(request)
        connection = await self._connect(address, connect_seconds or self._connect_seconds)
        return await connection.send(request)

    async def close(self) -> None:
        """Close all connections."""
        if self._expiry:
            self._expiry.cancel()
        for connection in list(self._open):
            connection.abort()

    def _discard(self, connection: Connection) -> None:
        """Remove a closed connection from the pool."""
        self._open.discard(connection)
        if connection in (idle := self._idle.get(connection.address, [])):
            idle.remove(connection)

    def _release(self, connection: Connection) -> None:
        """Return a connection to the pool."""
        self._idle.setdefault(connection.address, []).append(connection)
        if self._expiry is None:
            self._expiry = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._expire)

    def _idle_connection(self, address: Address) -> Connection | None:
        idle, now = self._idle.get(address), asyncio.get_running_loop().time()
        while idle:
            if (connection := idle.pop()).usable(now):
                return connection
            connection.abort()
        return None

    def _expire(self) -> None:
        """Close connections that were idle for too long; schedule the next check while others are idle."""
        loop = asyncio.get_running_loop()
        for connection in [each for idle in self._idle.values() for each in idle if not each.usable(loop.time())]:
            self._discard(connection)
            connection.abort()
        self._idle = {address: idle for address, idle in self._idle.items() if idle}
        self._expiry = loop.call_later(IDLE_SECONDS, self._expire) if self._idle else None

    async def _connect(self, address: Address, seconds: float) -> Connection:
        connection = partial(Connection, address, self._open.add, self._release, self._discard)
        loop, (host, port) = asyncio.get_running_loop(), address
        end = loop.time() + seconds
        try:
            async with asyncio.timeout_at(end):
                if not port:
                    return (await loop.create_unix_connection(connection, host))[1]
                infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ConnectionError(f"{host!r} cannot be reached") from error
        first = next(self._rotation) % len(infos)
        remaining = [str(info[4][0]) for info in infos[first:] + infos[:first]]
        while True:
            try:
                async with asyncio.timeout((end - loop.time()) / len(remaining)):
                    return (await loop.create_connection(connection, remaining.pop(0), port))[1]
            except OSError as error:
                if not remaining:
                    raise ConnectionError(f"{host}:{port} cannot be connected to") from error


def _encode_request(url: URL, headers: Mapping[str, str], body: bytes) -> bytes:
    host = f"[{url.raw_host}]" if ":" in (url.raw_host or "") else url.raw_host
    lines = [
        f"POST {url.raw_path_qs} HTTP/1.1",
        f"host: {host}" if url.is_default_port() else f"host: {host}:{url.port}",
    ]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += ["accept-encoding: identity", f"content-length: {len(body)}"]
    head = "\r\n".join(lines)
    if head.count("\n") >= len(lines) or head.count("\r") >= len(lines):
        raise ValueError("a header has a line break")
    return head.encode() + b"\r\n\r\n" + body
