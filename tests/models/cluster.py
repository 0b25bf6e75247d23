"""Harness of the models cluster: clients, a running engine, and a double of the embedding service."""

from __future__ import annotations

import asyncio
import socket as stdlib_socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import openai
import orjson
import psycopg

from drw.api.rag.v1 import embedding_rpc, vector_store_rpc
from drw.api.rag.v1.embedding_pb2 import EmbedRequest, EmbedResponse, Vector
from drw.api.rag.v1.vector_store_pb2 import Passage, VectorSearchRequest, VectorSearchResponse
from drw.kernel.errors import NotFound, Unavailable
from drw.kernel.rpc.context import caller
from drw.kernel.runtime.host import Host
from drw.rag.embedding.lengths import TextTooLong
from models.double_engine import DoubleEngine
from support.gateway.kills import DoubleKills
from support.json_types import JsonObject
from support.parts import running, wait_until

KEY = {
    "x-drw-key": "key_test",
    "x-drw-org": "acme",
    "x-drw-desk": "research",
    "x-drw-scopes": "models:invoke models:read",
}
SLOTS, CONTEXT = 4, 4096


class DoubleEmbedding(embedding_rpc.Embedding):
    """Embeds a text as its length; rejects or truncates texts above 100 characters."""

    async def embed(self, request: EmbedRequest, /) -> EmbedResponse:
        for index, text in enumerate(request.texts):
            averaged = request.long_text == EmbedRequest.AVERAGE
            if len(text) > 100 and not averaged and not request.truncate_prompt_tokens:
                raise TextTooLong(index, len(text), 100)
        inputs = [*request.texts, *(one.ids for one in request.tokens)]
        vectors = [Vector(values=[min(100.0, len(one)), 0.5]) for one in inputs]
        return EmbedResponse(vectors=vectors, model=request.model, tokens=len(inputs))


class DoubleVectorStore(vector_store_rpc.VectorStore):
    """Has the collections `vs_1` and `vs_2` of the desk research; each passage is inside the walls of its caller."""

    def __init__(self) -> None:
        self.requests: list[VectorSearchRequest] = []
        self.is_down = False

    async def search(self, request: VectorSearchRequest, /) -> VectorSearchResponse:
        self.requests.append(request)
        if self.is_down:
            raise Unavailable("the vector store does not answer", service="vector_store")
        if request.collection not in ("vs_1", "vs_2") or caller().desk != "research":
            raise NotFound(f"there is no collection {request.collection!r}")
        count = request.limit if request.collection == "vs_1" else 1
        passages = [
            Passage(
                document=f"file_{request.collection}_{number}",
                title=f"{request.collection}_{number}.txt",
                chunk=number,
                page=1,
                text=f"Passage {number} of {request.collection} for {sorted(caller().walls)}.",
                score=1 / (number + (1 if request.collection == "vs_1" else 1.5)),
            )
            for number in range(min(count, 3))
        ]
        return VectorSearchResponse(passages=passages)


@dataclass
class ModelsCluster:
    """A running models cluster with its clients."""

    client: openai.AsyncOpenAI
    http: httpx.AsyncClient
    double: DoubleEngine
    host: Host
    database: str
    kills: DoubleKills
    inference: str = ""
    """The address of the gRPC server of the Open Inference Protocol."""
    socket: str = ""
    """The Unix socket of the HTTP server."""
    vectors: DoubleVectorStore = field(default_factory=DoubleVectorStore)
    seen: int = field(default=0)

    def records(self) -> list[JsonObject]:
        """Return the audit records since the last call."""
        with psycopg.connect(self.database) as connection:
            rows = connection.execute("select record from audit.inbox order by id").fetchall()
        records = [orjson.loads(row[0]) if isinstance(row[0], str) else row[0] for row in rows]
        new, self.seen = records[self.seen :], len(records)
        return new

    async def until(self, ready: Callable[[], bool], what: str) -> None:
        """Wait for a condition while the event loop runs."""
        async with asyncio.timeout(30):
            while not ready():
                await asyncio.sleep(0.01)
        assert ready(), what


StartCluster = Callable[..., AbstractAsyncContextManager[ModelsCluster]]
"""Starts the cluster: `async with start(small=..., double={...}, **settings) as cluster`."""


@contextmanager
def running_engine(weights: Path, socket: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the engine until the block ends."""
    command = [sys.executable, "-m", "drw.models.engine", "--model", str(weights), "--socket", str(socket)]
    command += ["--slots", str(SLOTS), "--context", str(CONTEXT)]
    with running(command, socket.with_suffix(".log")) as process:
        wait_until(lambda: _healthy(socket) or process.poll() is not None, "the engine", 60)
        assert process.poll() is None, socket.with_suffix(".log").read_text()
        yield process


def _healthy(socket: Path) -> bool:
    with stdlib_socket.socket(stdlib_socket.AF_UNIX) as plug:
        plug.settimeout(10)
        try:
            plug.connect(str(socket))
            plug.sendall(b"GET /health HTTP/1.1\r\nhost: engine\r\n\r\n")
            return b" 200 " in plug.recv(64)
        except OSError:
            return False
