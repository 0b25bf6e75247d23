"""HTTP/1.1 client for upstreams without TLS: POST requests over kept connections to TCP ports and Unix sockets.

It takes a fraction of aiohttp's processor time, since it has no redirects, cookies, proxies or compression. Of retries
it has one: where the upstream has closed a kept connection, the request goes over a new one.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from itertools import count

from yarl import URL

from drw.models.serving.engines.http_connection import IDLE_SECONDS, Connection, Place, Response, Stale


class HttpClient:
    """Sends requests and keeps the connections."""

    def __init__(self, connect_seconds: float) -> None:
        self._connect_seconds = connect_seconds
        self._turns = count()
        self._idle: dict[Place, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._expiry: asyncio.TimerHandle | None = None

    async def post(
        self, url: URL, headers: Mapping[str, str], body: bytes, *, path: str = "", connect_seconds: float = 0
    ) -> Response:
        """Return the response when its head has come; close it afterwards. With a path, connect to that Unix socket.

        Raises:
            ConnectionError: there is no connection, it ended, or the response is not HTTP.
            ValueError: a header has a line break.
        """
        message = _message(url, headers, body)
        address = (path, 0) if path else (url.raw_host or "", url.port or 80)
        if (idle_connection := self._idle_connection(address)) is not None:
            with suppress(Stale):
                return await idle_connection.send(message)
        connection = await self._connected(address, connect_seconds or self._connect_seconds)
        return await connection.send(message)

    async def close(self) -> None:
        """Close every connection."""
        if self._expiry:
            self._expiry.cancel()
        for connection in list(self._open):
            connection.abort()

    def _lost(self, connection: Connection) -> None:
        """Take note of a connection that has ended."""
        self._open.discard(connection)
        if connection in (idle := self._idle.get(connection.address, [])):
            idle.remove(connection)

    def _keep(self, connection: Connection) -> None:
        """Take a connection back for further requests."""
        self._idle.setdefault(connection.address, []).append(connection)
        if self._expiry is None:
            self._expiry = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._expire)

    def _idle_connection(self, address: Place) -> Connection | None:
        idle, now = self._idle.get(address), asyncio.get_running_loop().time()
        while idle:
            if (connection := idle.pop()).usable(now):
                return connection
            connection.abort()
        return None

    def _expire(self) -> None:
        """Close what has been idle for too long; look again while anything is idle."""
        loop = asyncio.get_running_loop()
        for connection in [each for idle in self._idle.values() for each in idle if not each.usable(loop.time())]:
            self._lost(connection)
            connection.abort()
        self._idle = {address: idle for address, idle in self._idle.items() if idle}
        self._expiry = loop.call_later(IDLE_SECONDS, self._expire) if self._idle else None

    async def _connected(self, address: Place, seconds: float) -> Connection:
        connection = partial(Connection, address, self._open.add, self._keep, self._lost)
        loop, (host, port) = asyncio.get_running_loop(), address
        end = loop.time() + seconds
        try:
            async with asyncio.timeout_at(end):
                if not port:
                    return (await loop.create_unix_connection(connection, host))[1]
                infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ConnectionError(f"{host!r} cannot be reached") from error
        first = next(self._turns) % len(infos)
        left = [str(info[4][0]) for info in infos[first:] + infos[:first]]
        while True:
            try:
                async with asyncio.timeout((end - loop.time()) / len(left)):
                    return (await loop.create_connection(connection, left.pop(0), port))[1]
            except OSError as error:
                if not left:
                    raise ConnectionError(f"{host}:{port} cannot be connected to") from error


def _message(url: URL, headers: Mapping[str, str], body: bytes) -> bytes:
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
