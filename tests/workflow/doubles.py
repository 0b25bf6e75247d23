"""Doubles of the services that workflows call. They record their calls, and can block or fail."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from drw.api.gateway.v1.authentication_pb2 import (
    ComparePrincipalsRequest,
    ComparePrincipalsResponse,
    GetPermissionsRequest,
    Permissions,
)
from drw.api.gateway.v1.authentication_rpc import Authentication
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
from drw.api.rag.v1.retrieval_pb2 import SearchRequest, SearchResponse
from drw.api.rag.v1.retrieval_rpc import Retrieval
from drw.api.rag.v1.vector_store_pb2 import Passage
from drw.kernel.errors import NotFound
from drw.kernel.rpc import context, transport
from drw.kernel.runtime.settings import Profile, ServiceAddress
from support.gateway.kills import DoubleKills


async def until(condition: Callable[[], bool | Awaitable[bool]], condition_name: str, seconds: float = 120) -> None:
    """Return when the condition holds. The event loop continues to run in the meantime."""
    end = time.monotonic() + seconds
    while not await _holds(condition):
        assert time.monotonic() < end, f"{condition_name} did not happen within {seconds} s"
        await asyncio.sleep(0.02)


async def _holds(condition: Callable[[], bool | Awaitable[bool]]) -> bool:
    result = condition()
    return result if isinstance(result, bool) else await result


@dataclass
class Calls:
    """The recorded calls, and the blocks and failures of the next calls.

    The name of a call is its method and its subject, as in "index file-0".
    """

    names: list[str] = field(default_factory=list)
    callers: list[context.Principal] = field(default_factory=list)
    active: int = 0
    max_active: int = 0
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    failures: defaultdict[str, list[Exception]] = field(default_factory=lambda: defaultdict(list))

    def block(self, name: str) -> asyncio.Event:
        """Block calls of this name until the event is set."""
        return self.gates.setdefault(name, asyncio.Event())

    @asynccontextmanager
    async def call(self, name: str) -> AsyncIterator[None]:
        """Record a call, then block it or fail it as configured."""
        self.names.append(name)
        self.callers.append(context.caller())
        self.active += 1
        self.max_active = max(self.max_active, self.active)
        try:
            if name in self.gates:
                await self.gates[name].wait()
            if self.failures[name]:
                raise self.failures[name].pop(0)
            yield
        finally:
            self.active -= 1


class DoubleDocuments(Documents):
    """Files in memory: file-N has the name N.txt and the text "Text of file-N."."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.put: dict[str, tuple[str, bytes]] = {}
        self.collection = ""
        """The collection in every response; empty for that of the request."""

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
    """A model that answers with the first words after the heading of its prompt."""

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


class DoubleRetrieval(Retrieval):
    """Finds one passage: it repeats the question, for the document "file-0"."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls

    async def search(self, request: SearchRequest, /) -> SearchResponse:
        async with self.calls.call(f"search {request.collection}"):
            passage = Passage(document="file-0", title="0.txt", page=1, text=f"Found: {request.question}")
            return SearchResponse(passages=[passage])


class DoubleAuthentication(Authentication):
    """Takes all callers for different persons, who keep their permissions."""

    async def compare_principals(self, request: ComparePrincipalsRequest, /) -> ComparePrincipalsResponse:
        return ComparePrincipalsResponse(relations=[ComparePrincipalsResponse.DIFFERENT] * len(request.others))

    async def get_permissions(self, request: GetPermissionsRequest, /) -> Permissions:
        principal = context.caller()
        return Permissions(scopes=sorted(principal.scopes), walls=sorted(principal.walls))


@dataclass
class Doubles:
    """Both services, and a profile with their address."""

    profile: Profile
    calls: Calls
    documents: DoubleDocuments
    serving: DoubleServing
    retrieval: DoubleRetrieval
    server: transport.Server
    address: str
    kills: DoubleKills

    async def stop_server(self) -> None:
        """Stop the server."""
        await self.server.stop(0)

    async def restart_server(self) -> None:
        """Start a new server on the same address."""
        self.server = transport.Server([self.documents, self.serving, self.retrieval])
        await self.server.start(self.address)


@asynccontextmanager
async def serve_doubles(profile: Profile, socket: Path) -> AsyncIterator[Doubles]:
    """Serve both on a Unix socket, with its address in the profile."""
    calls = Calls()
    address = f"unix:{socket}"
    service_address = ServiceAddress(services=("documents", "serving", "retrieval"), grpc=address, http=f"{address}.h")
    kills = DoubleKills(f"{address}.k")
    await kills.start()
    processes = profile.processes | {"doubles": service_address, "gateway": kills.address}
    doubles_profile = profile.model_copy(update={"processes": processes})
    documents, serving, retrieval = DoubleDocuments(calls), DoubleServing(calls), DoubleRetrieval(calls)
    doubles = Doubles(
        doubles_profile,
        calls,
        documents,
        serving,
        retrieval,
        transport.Server([documents, serving, retrieval, DoubleAuthentication()]),
        address,
        kills,
    )
    await doubles.server.start(address)
    try:
        yield doubles
    finally:
        for event in calls.gates.values():
            event.set()
        await doubles.server.stop(0)
        await kills.stop()
