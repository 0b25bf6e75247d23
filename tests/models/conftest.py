"""Fixtures of the models cluster: real engine, double of an engine, OpenAI's client."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import openai
import pytest

from drw.kernel.rpc.transport import Server
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile, ServiceAddress
from drw.models.engine.weights import prepare
from models.cluster import (
    CONTEXT,
    KEY,
    SLOTS,
    DoubleEmbedding,
    DoubleVectorStore,
    ModelsCluster,
    StartCluster,
    running_engine,
)
from models.double_engine import double_engine
from support.gateway.kills import double_kills
from support.json_types import Json, JsonObject

_numbers = itertools.count()


@pytest.fixture(scope="session")
def weights(request: pytest.FixtureRequest) -> Path:
    """The weights of the bundled model, prepared once for all runs."""
    return prepare(Path(request.config.cache.mkdir("weights")), lambda line: None)


@pytest.fixture(scope="session")
def engine(weights: Path, folder: Path) -> Iterator[Path]:
    """The socket of a running engine."""
    socket = folder / "engine.sock"
    with running_engine(weights, socket):
        yield socket


@pytest.fixture
def start(profile: Profile, folder: Path) -> StartCluster:
    """Start the cluster: `async with start(small=..., double={...}, **settings) as web`."""

    @asynccontextmanager
    async def begin(
        small: Path | None = None,
        double: JsonObject | None = None,
        fallback: JsonObject | None = None,
        candidate: JsonObject | None = None,
        experiments: JsonObject | None = None,
        vectors: JsonObject | None = None,
        more: Sequence[str] = (),
        discovery: JsonObject | None = None,
        sampling: dict[str, float] | None = None,
        on: Profile = profile,
        **serving: Json,
    ) -> AsyncIterator[ModelsCluster]:
        base = folder / f"m{next(_numbers)}"
        models: JsonObject = {
            "double": {"engine": "openai", "base_url": f"unix:{base}.d", "upstream_model": "up-1", **(double or {})},
            "vectors": {"kind": "embedding", "engine": "onnx", "dimensions": 2, **(vectors or {})},
        }
        if fallback is not None:
            models["other"] = {**models["double"], "upstream_model": "up-2", **fallback}
            models["double"] = {**models["double"], "fallbacks": ["other"]}
        if candidate is not None:  # a second model of the same engine, as which it gets the name "up-2"
            models["candidate"] = {**models["double"], "upstream_model": "up-2", **candidate}
        if small:
            models["small"] = {"engine": "llama_cpp", "base_url": f"unix:{small}", "context_length": CONTEXT // SLOTS}
            models["small"] |= {"sampling": sampling or {}}
        further = discovery or {}
        models |= further.get("models", {})
        default = {"models": models, "default_model": "small" if small else "double"}
        services = {**on.services, "discovery": further | default, "experiments": experiments or {}}
        rag = ServiceAddress(services=("embedding", "vector_store"), grpc=f"unix:{base}.r", http="")
        spread = on.model_copy(
            update={"services": on.services | services | {"serving": serving}, "processes": {"rag": rag}}
        )
        spread.processes["models"] = ServiceAddress(services=(), grpc="", http="", inference=f"unix:{base}.i")
        vector_store = DoubleVectorStore()
        embedding = Server([DoubleEmbedding(), vector_store])
        await embedding.start(rag.grpc)
        async with double_kills(f"unix:{base}.k") as kills, double_engine(Path(f"{base}.d")) as made:
            spread.processes["gateway"] = kills.address
            host = Host(spread, "test", ["discovery", "serving", *more])
            try:
                await host.start(f"unix:{base}.g", f"unix:{base}.h")
                transport = httpx.AsyncHTTPTransport(uds=f"{base}.h")
                async with httpx.AsyncClient(
                    transport=transport, base_url="http://drw", headers=KEY, timeout=60
                ) as http:
                    options: JsonObject = {
                        "http_client": http,
                        "base_url": "http://drw/v1",
                        "api_key": "none",
                        "max_retries": 0,
                    }
                    client = openai.AsyncOpenAI(**options)
                    inference = f"unix:{base}.i"
                    yield ModelsCluster(
                        client, http, made, host, profile.postgres, kills, inference, f"{base}.h", vector_store
                    )
            finally:
                await host.stop(grace=0)
                await embedding.stop(0)

    return begin


@pytest.fixture
async def cluster(start: StartCluster) -> AsyncIterator[ModelsCluster]:
    """The cluster with the double of an engine."""
    async with start() as cluster:
        yield cluster


os.environ.setdefault("GRPC_VERBOSITY", "NONE")
