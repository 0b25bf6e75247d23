"""The models cluster with a real engine, an engine that fails on purpose, and OpenAI's own client."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket as stdlib_socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import psycopg
import pytest

from drw.api.rag.v1 import embedding_rpc
from drw.api.rag.v1.embedding_pb2 import EmbedRequest, EmbedResponse, Vector
from drw.kernel.rpc.transport import Server
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile, ServiceAddress
from drw.models.engine.weights import prepare
from drw.rag.embedding.lengths import TextTooLong
from models.double_engine import DoubleEngine, double_engine
from support.kills import DoubleKills, double_kills
from support.parts import running, wait_until

KEY = {
    "x-drw-key": "key_test",
    "x-drw-org": "acme",
    "x-drw-desk": "research",
    "x-drw-scopes": "models:invoke models:read",
}
SLOTS, CONTEXT = 4, 4096

_numbers = itertools.count()


class DoubleEmbedding(embedding_rpc.Embedding):
    """Turns a text into its length; takes 100 characters, or cuts there where that is asked for."""

    async def embed(self, request: EmbedRequest, /) -> EmbedResponse:
        for index, text in enumerate(request.texts):
            if len(text) > 100 and not request.truncate_prompt_tokens:
                raise TextTooLong(index, len(text), 100)
        inputs = [*request.texts, *(one.ids for one in request.tokens)]
        vectors = [Vector(values=[min(100.0, len(one)), 0.5]) for one in inputs]
        return EmbedResponse(vectors=vectors, model=request.model, tokens=len(inputs))


@dataclass
class Web:
    """A running models cluster as callers reach it."""

    client: openai.AsyncOpenAI
    http: httpx.AsyncClient
    double: DoubleEngine
    host: Host
    database: str
    kills: DoubleKills
    seen: int = field(default=0)

    def records(self) -> list[dict[str, Any]]:
        """Return the audit records that are new since the last look."""
        with psycopg.connect(self.database) as connection:
            rows = connection.execute("select record from audit.inbox order by id").fetchall()
        found = [orjson.loads(row[0]) if isinstance(row[0], str) else row[0] for row in rows]
        new, self.seen = found[self.seen :], len(found)
        return new

    async def until(self, ready: Callable[[], bool], what: str) -> None:
        """Wait for a condition while the event loop runs."""
        async with asyncio.timeout(30):
            while not ready():
                await asyncio.sleep(0.01)
        assert ready(), what


@contextmanager
def running_engine(weights: Path, socket: Path) -> Iterator[Any]:
    """Run the engine until the block ends."""
    command = [sys.executable, "-m", "drw.models.engine", "--model", str(weights), "--socket", str(socket)]
    command += ["--slots", str(SLOTS), "--context", str(CONTEXT)]
    with running(command, socket.with_suffix(".log")) as process:
        wait_until(lambda: _healthy(socket) or process.poll() is not None, "the engine", 60)
        assert process.poll() is None, socket.with_suffix(".log").read_text()
        yield process


@pytest.fixture(scope="session")
def weights(request: pytest.FixtureRequest) -> Path:
    """The small model's weights, made once for all runs."""
    return prepare(Path(request.config.cache.mkdir("weights")), lambda line: None)


@pytest.fixture(scope="session")
def engine(weights: Path, folder: Path) -> Iterator[Path]:
    """The socket of a running engine."""
    socket = folder / "engine.sock"
    with running_engine(weights, socket):
        yield socket


@pytest.fixture
def start(profile: Profile, folder: Path) -> Callable[..., Any]:
    """Start the cluster: `async with start(small=..., double={...}, **settings) as web`."""

    @asynccontextmanager
    async def begin(
        small: Path | None = None,
        double: dict[str, Any] | None = None,
        fallback: dict[str, Any] | None = None,
        vectors: dict[str, Any] | None = None,
        more: Sequence[str] = (),
        discovery: dict[str, Any] | None = None,
        sampling: dict[str, float] | None = None,
        on: Profile = profile,
        **serving: Any,
    ) -> AsyncIterator[Web]:
        base = folder / f"m{next(_numbers)}"
        models: dict[str, Any] = {
            "double": {"engine": "openai", "base_url": f"unix:{base}.d", "upstream_model": "up-1", **(double or {})},
            "vectors": {"kind": "embedding", "engine": "onnx", "dimensions": 2, **(vectors or {})},
        }
        if fallback is not None:
            models["other"] = {**models["double"], "upstream_model": "up-2", **fallback}
            models["double"] = {**models["double"], "fallbacks": ["other"]}
        if small:
            models["small"] = {"engine": "llama_cpp", "base_url": f"unix:{small}", "context_length": CONTEXT // SLOTS}
            models["small"] |= {"sampling": sampling or {}}
        further = discovery or {}
        models |= further.get("models", {})
        default = {"models": models, "default_model": "small" if small else "double"}
        services = {"discovery": further | default}
        rag = ServiceAddress(services=("embedding",), grpc=f"unix:{base}.r", http="")
        spread = on.model_copy(update={"services": services | {"serving": serving}, "processes": {"rag": rag}})
        embedding = Server([DoubleEmbedding()])
        await embedding.start(rag.grpc)
        async with double_kills(f"unix:{base}.k") as kills, double_engine(Path(f"{base}.d")) as made:
            spread.processes["gateway"] = kills.place
            host = Host(spread, "test", ["discovery", "serving", *more])
            try:
                await host.start(f"unix:{base}.g", f"unix:{base}.h")
                transport = httpx.AsyncHTTPTransport(uds=f"{base}.h")
                async with httpx.AsyncClient(
                    transport=transport, base_url="http://drw", headers=KEY, timeout=60
                ) as http:
                    options = {"base_url": "http://drw/v1", "api_key": "none", "max_retries": 0}
                    client = openai.AsyncOpenAI(http_client=http, **options)
                    yield Web(client, http, made, host, profile.postgres, kills)
            finally:
                await host.stop(grace=0)
                await embedding.stop(0)

    return begin


@pytest.fixture
async def web(start: Callable[..., Any]) -> AsyncIterator[Web]:
    """The cluster with the engine that fails on purpose."""
    async with start() as found:
        yield found


def _healthy(socket: Path) -> bool:
    with stdlib_socket.socket(stdlib_socket.AF_UNIX) as plug:
        plug.settimeout(10)
        try:
            plug.connect(str(socket))
            plug.sendall(b"GET /health HTTP/1.1\r\nhost: engine\r\n\r\n")
            return b" 200 " in plug.recv(64)
        except OSError:
            return False


os.environ.setdefault("GRPC_VERBOSITY", "NONE")
