"""The HTTP/1.1 client against scripted servers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from socket import AddressFamily

import pytest
from yarl import URL

from drw.models.serving.engines import http_connection
from drw.models.serving.engines.http_client import HttpClient
from support.json_types import Json

OK = b"HTTP/1.1 200 OK\r\n"
WHOLE = OK + b"content-length: 5\r\n\r\nhello"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n2;x=1\r\nhe\r\n3\r\nllo\r\n0\r\nx-after: 1\r\n\r\n"
UNTIL_END = OK + b"content-type: text/plain\r\n\r\nhello"
END = None
"""In a script: the connection ends here."""


class Server:
    """Answers each request on each connection with the next list of pieces of its script."""

    def __init__(self, *script: list[bytes | None]) -> None:
        self.script = list(script)
        self.requests: list[bytes] = []
        self.connections = 0
        self.ended = asyncio.Event()
        self.go = asyncio.Event()
        self.url = URL()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                for piece in self.script.pop(0):
                    if piece is END:
                        return
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.ended.set()
        finally:
            writer.close()


@asynccontextmanager
async def serving(*script: list[bytes | None]) -> AsyncIterator[tuple[Server, HttpClient]]:
    server, client = Server(*script), HttpClient(5)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = URL(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1/chat")
    try:
        yield server, client
    finally:
        await client.close()
        listening.close()
        await listening.wait_closed()


async def ask(server: Server, client: HttpClient, **more: Json) -> tuple[int, bytes]:
    response = await client.post(server.url, {"accept": "text/event-stream"}, b"{}", **more)
    body = b""
    while data := await response.content.readany():
        body += data
    response.close()
    return response.status, body


def split(data: bytes) -> list[bytes | None]:
    return [data[i : i + 1] for i in range(len(data))]


@pytest.mark.parametrize("answer", [WHOLE, CHUNKED], ids=["length", "chunked"])
@pytest.mark.parametrize("cut", [lambda data: [data], split], ids=["at once", "byte by byte"])
async def test_a_complete_body_returns_the_connection_to_the_pool(
    answer: bytes, cut: Callable[[bytes], list[bytes | None]]
) -> None:
    async with serving(cut(answer), cut(answer)) as (server, client):
        assert [await ask(server, client) for _ in range(2)] == [(200, b"hello")] * 2
        assert server.connections == 1
        assert server.requests[0].startswith(b"POST /v1/chat HTTP/1.1\r\nhost: 127.0.0.1:")
        assert server.requests[0].endswith(b"\r\n\r\n{}")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([UNTIL_END, END], (200, b"hello")),
        ([b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello"], (200, b"hello")),
        ([OK + b"connection: close\r\ncontent-length: 5\r\n\r\nhello"], (200, b"hello")),
        ([b"HTTP/1.1 503 Busy\r\nretry-after: 3\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"], (503, b"")),
    ],
    ids=["until the end", "HTTP/1.0", "close", "status"],
)
async def test_a_closed_connection_is_not_reused(answer: list[bytes | None], expected: tuple[int, bytes]) -> None:
    async with serving(answer, [WHOLE]) as (server, client):
        assert await ask(server, client) == expected
        assert await ask(server, client) == (200, b"hello")
        assert server.connections == 2


async def test_an_informational_response_is_skipped() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\ncontent-length: 9\r\nlink: x\r\n\r\n"
    async with serving([early, CHUNKED], [WHOLE]) as (server, client):
        response = await client.post(server.url, {}, b"")
        assert (response.status, "link" in response.headers) == (200, False)
        assert await response.content.readany() == b"hello" or await response.content.readany()
        assert await ask(server, client) == (200, b"hello")


@pytest.mark.parametrize(
    "answer",
    [
        [END],
        [b"HTTP/1.1 200", END],
        [OK, END],
        [OK + b"content-length: 9\r\n\r\nhello", END],
        [OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", END],
        [OK + b"transfer-encoding: chunked\r\n\r\nnot a size\r\n"],
        [b"SSH-2.0-OpenSSH_9.6\r\n\r\n"],
        [OK + b"x: " + b"x" * (80 << 10)],
        [OK + b"content-encoding: gzip\r\ncontent-length: 5\r\n\r\nhello"],
        [b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nhello"],
    ],
    ids=["silent", "in status", "in head", "in body", "in chunks", "bad size", "not HTTP", "long head", "gzip", "101"],
)
async def test_an_incomplete_or_malformed_response_is_a_connection_error(answer: list[bytes | None]) -> None:
    async with serving(answer) as (server, client):
        with pytest.raises(ConnectionError):
            await ask(server, client)
        assert len(server.requests) == 1


async def test_bytes_before_the_end_of_the_connection_can_be_read() -> None:
    async with serving([OK + b"content-length: 9\r\n\r\nhello", END]) as (server, client):
        response = await client.post(server.url, {}, b"")
        assert await response.content.readany() == b"hello"
        with pytest.raises(ConnectionError):
            await response.content.readany()


async def test_a_pooled_connection_that_the_upstream_closed_is_replaced_once() -> None:
    async with serving([WHOLE], [END], [WHOLE], [END], [END]) as (server, client):
        assert await ask(server, client) == (200, b"hello")
        assert await ask(server, client) == (200, b"hello")
        assert (server.connections, len(server.requests)) == (2, 3)
        with pytest.raises(ConnectionError):
            await ask(server, client)
        assert (server.connections, len(server.requests)) == (3, 5)


async def test_a_truncated_response_on_a_pooled_connection_is_not_retried() -> None:
    async with serving([WHOLE], [OK, END], [WHOLE]) as (server, client):
        await ask(server, client)
        with pytest.raises(ConnectionError):
            await ask(server, client)
        assert len(server.requests) == 2


@pytest.mark.parametrize("junk", [b"x", WHOLE], ids=["bytes", "a second response"])
async def test_unsolicited_bytes_close_the_connection(junk: bytes) -> None:
    async with serving([WHOLE + junk], [WHOLE.replace(b"hello", b"right")]) as (server, client):
        assert await ask(server, client) == (200, b"hello")
        assert await ask(server, client) == (200, b"right")
        assert server.connections == 2


async def test_closing_an_incomplete_response_closes_the_connection() -> None:
    async with serving([OK + b"content-length: 9\r\n\r\nhello"]) as (server, client):
        response = await client.post(server.url, {}, b"")
        response.close()
        await asyncio.wait_for(server.ended.wait(), 10)


async def test_cancelling_a_request_closes_the_connection() -> None:
    async with serving([]) as (server, client):
        asking = asyncio.ensure_future(ask(server, client))
        while not server.requests:
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait_for(server.ended.wait(), 10)


async def test_a_connection_past_its_idle_time_is_not_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "IDLE_SECONDS", 0.0)
    async with serving([WHOLE], [WHOLE]) as (server, client):
        await ask(server, client)
        await ask(server, client)
        assert server.connections == 2


async def test_reading_pauses_while_the_body_is_not_consumed() -> None:
    size = 32 << 20
    async with serving([OK + b"content-length: %d\r\n\r\n" % size, bytes(size)], [WHOLE]) as (server, client):
        response = await client.post(server.url, {}, b"")
        while not response._connection._paused:
            await asyncio.sleep(0)
        assert response._unread_bytes < 4 << 20
        left = size
        while data := await response.content.readany():
            left -= len(data)
        assert (left, response.content.at_eof()) == (0, True)
        assert await ask(server, client) == (200, b"hello")
        assert server.connections == 1


async def test_a_long_body_arrives_in_parts() -> None:
    async with serving([WHOLE]) as (server, client):
        response = await client.post(server.url, {}, b"")
        assert [await response.content.read(2) for _ in range(4)] == [b"he", b"ll", b"o", b""]


@pytest.mark.parametrize("value", ["a\r\nx: 1", "a\nx: 1", "a\rb"])
async def test_a_header_value_cannot_inject_another_header(value: str) -> None:
    async with serving() as (server, client):
        with pytest.raises(ValueError, match="line break"):
            await client.post(server.url, {"authorization": value}, b"")
        assert server.connections == 0


async def test_the_next_address_is_tried_after_a_refused_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving([WHOLE], [END], [WHOLE]) as (server, client):
        addresses = [(socket.AF_INET, 1, 6, "", (ip, server.url.port or 0)) for ip in ("127.0.0.2", "127.0.0.1")]

        async def getaddrinfo(*_: object, **__: object) -> list[tuple[AddressFamily, int, int, str, tuple[str, int]]]:
            return addresses

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        assert await ask(server, client) == (200, b"hello")
        assert await ask(server, client) == (200, b"hello")


async def test_a_connect_timeout_is_a_connection_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    async with serving() as (server, client):
        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never)
        with pytest.raises(ConnectionError):
            await ask(server, client, connect_seconds=0.001)


async def test_a_unix_socket_has_a_separate_pool(tmp_path: Path) -> None:
    async with serving([WHOLE], [WHOLE]) as (server, client):
        listening = await asyncio.start_unix_server(server.serve, tmp_path / "s")
        assert await ask(server, client, path=str(tmp_path / "s")) == (200, b"hello")
        assert await ask(server, client) == (200, b"hello")
        assert server.connections == 2
        await client.close()
        listening.close()
    with pytest.raises(ConnectionError):
        await ask(server, client, path=str(tmp_path / "gone"))
