"""Stand-ins for the documents and serving services, which count their calls and can be held or made to fail."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from drw.api.models.v1.serving_pb2 import ChatChunk, ChatRequest
from drw.api.models.v1.serving_rpc import Serving
from drw.api.rag.v1.documents_pb2 import (
    File,
    GetFileRequest,
    IndexFileRequest,
    Indexing,
    PutFileRequest,
    ReadTextRequest,
    ReadTextResponse,
)
from drw.api.rag.v1.documents_rpc import Documents
from drw.kernel.errors import NotFound
from drw.kernel.rpc import context, transport
from drw.kernel.runtime.settings import Profile, ServiceAddress
from support.gateway.kills import DoubleKills


async def until(ready: Callable[[], Awaitable[bool]], what: str, seconds: float = 120) -> None:
    """Return when `ready` says so; the event loop goes on meanwhile."""
    end = time.monotonic() + seconds
    while not await ready():
        assert time.monotonic() < end, f"{what} did not come within {seconds} s"
        await asyncio.sleep(0.02)


@dataclass
class Calls:
    """What was called, for whom, and what is to become of the next calls.

    A call is named by its method and what it is about, as in "index file-0".
    """

    made: list[str] = field(default_factory=list)
    callers: list[context.Principal] = field(default_factory=list)
    under_way: int = 0
    most_at_once: int = 0
    held: dict[str, asyncio.Event] = field(default_factory=dict)
    faults: defaultdict[str, list[Exception]] = field(default_factory=lambda: defaultdict(list))

    def hold(self, name: str) -> asyncio.Event:
        """Let calls of this name wait until the event is set."""
        return self.held.setdefault(name, asyncio.Event())

    @asynccontextmanager
    async def call(self, name: str) -> AsyncIterator[None]:
        """Count a call, then do to it what was asked for."""
        self.made.append(name)
        self.callers.append(context.caller())
        self.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)
        try:
            if name in self.held:
                await self.held[name].wait()
            if self.faults[name]:
                raise self.faults[name].pop(0)
            yield
        finally:
            self.under_way -= 1


class DoubleDocuments(Documents):
    """Files in memory: file-N is named N.txt and says "Text of file-N."."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.put: dict[str, tuple[str, bytes]] = {}
        self.collection = ""
        """What it calls every collection; empty: as it was asked."""

    async def get_file(self, request: GetFileRequest, /) -> File:
        if not request.file.startswith("file-"):
            raise NotFound(f"there is no file {request.file!r}")
        return File(id=request.file, name=f"{request.file.removeprefix('file-')}.txt")

    async def read_text(self, request: ReadTextRequest, /) -> ReadTextResponse:
        async with self.calls.call(f"read {request.file}"):
            text = "" if request.file == "file-empty" else f"Text of {request.file}. " + "long " * 1000
            return ReadTextResponse(
                pages=[text[: request.max_characters]], truncated=len(text) > request.max_characters
            )

    async def index_file(self, request: IndexFileRequest, /) -> Indexing:
        async with self.calls.call(f"index {request.file}"):
            name = self.collection or request.collection
            return Indexing(file=request.file, collection=name, state=Indexing.COMPLETED, chunks=3)

    async def put_file(self, request: PutFileRequest, /) -> File:
        async with self.calls.call(f"put {request.name}"):
            file = f"file-{hashlib.sha256(request.name.encode() + request.content).hexdigest()[:8]}"
            self.put[file] = (request.name, request.content)
            return File(id=file, name=request.name)


class DoubleServing(Serving):
    """A model that answers with the first five words after the heading of its prompt."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.prompts: list[str] = []

    async def chat(self, request: ChatRequest, /) -> AsyncIterator[ChatChunk]:
        prompt = request.messages[-1].content
        self.prompts.append(prompt)
        words = prompt.partition("\n\n")[2].split()
        async with self.calls.call(f"chat {words[2].rstrip('.')}"):
            yield ChatChunk(text=" ".join(words[:2]))
            yield ChatChunk(text=" " + " ".join(words[2:3]), finish_reason="stop")


@dataclass
class Doubles:
    """Both services, and the profile in which they are found."""

    profile: Profile
    calls: Calls
    documents: DoubleDocuments
    serving: DoubleServing
    server: transport.Server
    address: str
    kills: DoubleKills

    async def go_away(self) -> None:
        """Stop answering."""
        await self.server.stop(0)

    async def come_back(self) -> None:
        """Answer again."""
        self.server = transport.Server([self.documents, self.serving])
        await self.server.start(self.address)


@asynccontextmanager
async def doubled(profile: Profile, socket: Path) -> AsyncIterator[Doubles]:
    """Serve both on a Unix socket, and name it in the profile."""
    calls = Calls()
    address = f"unix:{socket}"
    place = ServiceAddress(services=("documents", "serving"), grpc=address, http=f"{address}.h")
    kills = DoubleKills(f"{address}.k")
    await kills.start()
    processes = profile.processes | {"doubles": place, "gateway": kills.address}
    found = profile.model_copy(update={"processes": processes})
    documents, serving = DoubleDocuments(calls), DoubleServing(calls)
    doubles = Doubles(found, calls, documents, serving, transport.Server([documents, serving]), address, kills)
    await doubles.server.start(address)
    try:
        yield doubles
    finally:
        for event in calls.held.values():
            event.set()
        await doubles.server.stop(0)
        await kills.stop()
