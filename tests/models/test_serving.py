"""The RPC contract of serving: streamed answers and errors."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest

from drw.api.models.v1.serving_pb2 import ChatMessage, ChatRequest
from drw.api.models.v1.serving_rpc import ServingClient
from drw.kernel.errors import InvalidRequest, NotFound, Unavailable
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import ConfigError, Profile, ServiceAddress
from models.double_engine import WORDS, DoubleEngine, double_engine
from support.hosting import hosted
from support.json_types import Json
from support.strict_transport import StrictTransport

_numbers = itertools.count()


@pytest.fixture(params=["together", "strict", "apart"])
async def served(
    request: pytest.FixtureRequest, profile: Profile, folder: Path, caller: Principal
) -> AsyncIterator[tuple[ServingClient, DoubleEngine, str]]:
    """A client of serving, the engine behind it, and the database."""
    base = f"{folder}/v{next(_numbers)}"
    models = {"double": {"engine": "openai", "base_url": f"unix:{base}.d"}}
    places = {
        name: ServiceAddress(services=(name,), grpc=f"unix:{base}.{name[:2]}g", http=f"unix:{base}.{name[:2]}h")
        for name in ("serving", "discovery", "embedding", "request_router")
    }
    spread = profile.model_copy(update={"processes": places, "services": {"discovery": {"models": models}}})
    async with double_engine(Path(f"{base}.d")) as engine, _running(spread, request.param) as host:
        with acting_for(caller):
            yield host.client(ServingClient), engine, profile.postgres


@asynccontextmanager
async def _running(profile: Profile, how: str) -> AsyncIterator[Host]:
    if how == "apart":
        hosts = [Host(profile, name) for name in ("discovery", "serving")] + [Host(profile, "test", [])]
    else:
        wrap = StrictTransport if how == "strict" else (lambda transport: transport)
        hosts = [Host(profile, "serving", ["discovery", "serving"], wrap)]
    for host in hosts:
        await host.start()
    try:
        yield hosts[-1]
    finally:
        for host in reversed(hosts):
            await host.stop(grace=0)


def ask(how: str, **more: Json) -> ChatRequest:
    return ChatRequest(messages=[ChatMessage(role="user", content=how)], **more)


async def test_an_rpc_answer_is_streamed_and_ends_with_its_finish_reason(
    served: tuple[ServingClient, DoubleEngine, str],
) -> None:
    client, engine, database = served
    schema = '{"type": "object"}'
    pieces = [p async for p in client.chat(ask("plain", max_tokens=9, stop=["x"], seed=3, json_schema=schema))]
    assert [p.text for p in pieces[:-1]] == list(WORDS)
    last = pieces[-1]
    assert (last.finish_reason, last.model, last.usage.completion_tokens) == ("stop", "double", 3)
    (body,) = engine.bodies
    assert (body["max_tokens"], body["stop"], body["seed"]) == (9, ["x"], 3)
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    with psycopg.connect(database) as connection:
        rows = connection.execute("select record::jsonb from audit.inbox").fetchall()
    assert [(r["outcome"], r["actor"]) for (r,) in rows] == [("ok", "key_test")]


async def test_rpc_errors_keep_their_class(served: tuple[ServingClient, DoubleEngine, str]) -> None:
    client, _, database = served
    for request, error, said in [
        (ask("plain", model="gone"), NotFound, "'gone' does not exist"),
        (ask("plain", json_schema="{"), InvalidRequest, "json_schema is not JSON"),
        (ChatRequest(), InvalidRequest, "messages"),
        (ask("status_400"), InvalidRequest, "too long: 9 of 8"),
        (ask("cut"), Unavailable, "ended in the middle"),
    ]:
        with pytest.raises(error, match=said):
            _ = [piece async for piece in client.chat(request)]
    with psycopg.connect(database) as connection:
        rows = connection.execute("select record::jsonb ->> 'outcome' from audit.inbox order by id").fetchall()
    assert [outcome for (outcome,) in rows] == ["refused"] * 4 + ["failed"]


async def test_closing_an_rpc_stream_stops_the_engine(served: tuple[ServingClient, DoubleEngine, str]) -> None:
    import asyncio

    client, engine, _ = served
    pieces = client.chat(ask("stall"))
    assert (await anext(pieces)).text == WORDS[0]
    await pieces.aclose()
    async with asyncio.timeout(30):
        while engine.under_way:
            await asyncio.sleep(0.01)
    assert engine.under_way == 0


async def test_invalid_adapter_settings_are_rejected(profile: Profile, folder: Path) -> None:
    section = {"discovery": {"models": {}}, "serving": {"openai": {"patience": 3}}}
    places = {"rag": ServiceAddress(services=("embedding",), grpc=f"unix:{folder}/none", http="")}
    wrong = profile.model_copy(update={"services": section, "processes": places})
    with pytest.raises(ConfigError, match="serving: openai.patience: Extra inputs"):
        async with hosted(wrong, ["discovery", "serving"]):
            pass
