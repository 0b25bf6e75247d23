"""One front door for all of these tests, whose upstream keeps what reaches it, and a client that sends raw bytes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio
from starlette.requests import Request
from starlette.responses import Response

from agent.data_plane import Front, front_profile_of, running
from agent.doubles import DoubleCollector, DoubleModels
from drw.kernel.rpc.http_server import HttpServer
from drw.kernel.runtime.settings import Profile
from drw.local.preflight import free_port
from fuzzing.services import KEY, Served, serving_in_thread
from support.hosting import with_secret
from support.parts import new_database

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

    front: Front
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
        where = urlsplit(self.front.url)
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


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def gate(
    postgres: Path, valkey: str, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gate]:
    """The front door, running for as long as these tests do."""
    collector = DoubleCollector()
    traces = HttpServer(collector.app)
    address = await traces.start(f"127.0.0.1:{free_port('127.0.0.1')}")
    data = tmp_path_factory.mktemp("gate")
    profile = Profile(
        name="test",
        data=data,
        postgres=new_database(postgres),
        valkey=f"{valkey}?db=9999",
        otlp_endpoint=f"http://{address}",
    )
    front = Front(front_profile_of(with_secret(profile), folder))
    front.models = models = RecordingModels()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("drw.agent.agent.AGAIN_SECONDS", 0.05)
        async with running(front):
            secret = await front.key("models:read", "models:invoke", "documents:read")
            yield Gate(front, models, collector, secret)
    await traces.stop(0)


@pytest.fixture(scope="session")
def served(postgres: Path, valkey: str, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Every service, with a desk that has one of everything."""
    with serving_in_thread(postgres, valkey, folder, tmp_path_factory.mktemp("fuzz")) as found:
        yield found


@pytest.fixture
def front_profile(profile: Profile, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """The profile with four processes and a data plane; nothing runs yet."""
    monkeypatch.setattr("drw.agent.agent.AGAIN_SECONDS", 0.05)
    return front_profile_of(profile, folder)


@pytest.fixture
def desk(served: Served) -> Iterator[httpx.Client]:
    """A client of all services, acting for the desk that has one of everything."""
    with httpx.Client(base_url=served.url, headers=KEY, timeout=30) as http:
        yield http
