"""Test harness of failover: serving with scripted upstreams, over its socket, with simulated time."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import orjson
import psycopg
import pytest
from prometheus_client import REGISTRY

from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile, ServiceAddress
from drw.models.serving import composition
from models.failover.double_upstream import TEXT, DoubleUpstream, double_upstream
from models.failover.time_loop import DoubleClock, passed, passing, run
from support.json_types import Json, JsonObject

KEY = {"x-drw-key": "key_test", "x-drw-org": "acme", "x-drw-desk": "research", "x-drw-scopes": "models:invoke"}
DEADLINES = {"connect_seconds": 2, "first_token_seconds": 5, "between_tokens_seconds": 5, "total_seconds": 60}
PREFILL = "continue_final_message"

_numbers = itertools.count()


@dataclass
class Reply:
    """The response that a caller received, and its duration."""

    status: int
    headers: Mapping[str, str]
    text: str
    seconds: float
    model: str = ""
    finish_reason: str | None = None
    error: JsonObject = field(default_factory=dict)
    done: bool = True
    """Whether the stream ended with `[DONE]`."""
    usage: JsonObject | None = None
    models: list[str] = field(default_factory=list)
    """The models of a stream in order."""

    @property
    def verdict(self) -> str:
        """`whole`, `error`, or `truncated`, which must never occur."""
        if self.error:
            return "truncated" if self.done and self.status == 200 else "error"
        return "whole" if self.text == TEXT and self.finish_reason == "stop" and self.done else "truncated"


@dataclass
class World:
    """A running serving with its upstreams."""

    http: httpx.AsyncClient
    upstreams: dict[str, DoubleUpstream]
    host: Host
    database: str
    seen: int = 0

    def __getitem__(self, name: str) -> DoubleUpstream:
        return self.upstreams[name]

    async def ask(
        self, *, stream: bool, model: str = "primary", headers: dict[str, str] | None = None, **more: Json
    ) -> Reply:
        """Send one request and return the reply."""
        body = {"model": model, "messages": [{"role": "user", "content": "Count."}], "stream": stream, **more}
        if stream:
            body["stream_options"] = {"include_usage": True}
        started_at = self.now()
        reply = await passing(self._post(body, headers or {}))
        reply.seconds = self.now() - started_at
        return reply

    async def wait(self, seconds: float) -> None:
        """Advance the simulated time."""
        await passing(DoubleClock().sleep(seconds))

    def now(self) -> float:
        """Return the simulated time in seconds; real time does not count."""
        return passed()

    def records(self) -> list[JsonObject]:
        """Return the audit records since the last call."""
        with psycopg.connect(self.database) as connection:
            rows = connection.execute("select record::jsonb from audit.inbox order by id").fetchall()
        new, self.seen = [row[0] for row in rows][self.seen :], len(rows)
        return new

    def circuit(self, model: str) -> float | None:
        """Return the metric of the circuit of a model with one replica."""
        replica = self[model].base_url.removeprefix("http://").removesuffix("/v1")
        return REGISTRY.get_sample_value("drw_circuit_state", {"model": model, "replica": replica})

    async def status(self) -> str:
        """Return the status of serving."""
        return next(s.detail for s in (await self.host.status()).services if s.name == "serving")

    async def _post(self, body: JsonObject, headers: dict[str, str]) -> Reply:
        answer = await self.http.post("/v1/chat/completions", json=body, headers=headers)
        reply = Reply(answer.status_code, answer.headers, "", 0.0)
        if not answer.headers["content-type"].startswith("text/event-stream"):
            content = answer.json()
            reply.error = content.get("error") or {}
            if not reply.error:
                (choice,) = content["choices"]
                reply.text, reply.finish_reason = choice["message"]["content"], choice["finish_reason"]
                reply.model, reply.usage = content["model"], content["usage"]
            return reply
        reply.done = False
        for line in answer.text.splitlines():
            if line == "data: [DONE]":
                reply.done = True
            elif line:
                _take(reply, orjson.loads(line.removeprefix("data: ")))
        return reply


def _take(reply: Reply, event: JsonObject) -> None:
    if error := event.get("error"):
        reply.error = error
        return
    if reply.model != event["model"]:
        reply.model = event["model"]
        reply.models.append(reply.model)
    reply.usage = event.get("usage") or reply.usage
    for choice in event["choices"]:
        reply.text += choice["delta"].get("content") or ""
        reply.finish_reason = choice.get("finish_reason") or reply.finish_reason


def fallbacks(before: str, after: str, reason: str) -> float:
    """Return the number of fallbacks from one model to another for a reason."""
    labels = {"from": before, "to": after, "reason": reason}
    return REGISTRY.get_sample_value("drw_fallbacks_total", labels) or 0.0


@asynccontextmanager
async def world(
    profile: Profile,
    folder: Path,
    *,
    primary: JsonObject | None = None,
    fallback: JsonObject | None = None,
    third: JsonObject | None = None,
    replicas: tuple[str, ...] = (),
    aliases: JsonObject | None = None,
    **serving: Json,
) -> AsyncIterator[World]:
    """Run serving with `primary`, `fallback` and optionally `third`; `replicas` are more replicas of `primary`."""
    base = f"{folder}/f{next(_numbers)}"
    model_settings = {"primary": primary or {}, "fallback": fallback or {}} | (
        {} if third is None else {"third": third}
    )
    async with AsyncExitStack() as stack:
        upstreams = {
            name: await stack.enter_async_context(double_upstream(name)) for name in (*model_settings, *replicas)
        }
        models: JsonObject = {
            name: {
                "engine": "openai",
                "base_url": upstreams[name].base_url,
                "context_length": 4096,
                "deadlines": DEADLINES,
                "prefill": PREFILL,
                **more,
            }
            for name, more in model_settings.items()
        }
        models["primary"].setdefault("fallbacks", [name for name in model_settings if name != "primary"])
        if replicas:
            models["primary"] |= {
                "base_url": "",
                "base_urls": [upstreams[name].base_url for name in ("primary", *replicas)],
            }
        discovery = {"models": models, "default_model": "primary", "aliases": aliases or {}}
        rag = ServiceAddress(services=("embedding",), grpc=f"unix:{base}.r", http="")
        gateway = ServiceAddress(services=("request_router",), grpc=f"unix:{base}.q", http="")
        services = {"discovery": discovery, "serving": serving}
        host = Host(
            profile.model_copy(update={"services": services, "processes": {"rag": rag, "gateway": gateway}}),
            "test",
            ["discovery", "serving"],
        )
        stack.push_async_callback(host.stop, grace=0)
        await host.start(f"unix:{base}.g", f"unix:{base}.h")
        transport = httpx.AsyncHTTPTransport(uds=f"{base}.h")
        http = httpx.AsyncClient(transport=transport, base_url="http://drw", headers=KEY, timeout=None)
        running = World(await stack.enter_async_context(http), upstreams, host, profile.postgres)
        running.records()  # drop records of other tests
        yield running


@pytest.fixture
def in_world(profile: Profile, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a case: `in_world(case, fallback={...}, **serving)`."""
    monkeypatch.setattr(composition, "Clock", DoubleClock)

    def go(case: Callable[[World], Awaitable[object]], **settings: Json) -> None:
        async def inside() -> None:
            async with world(profile, folder, **settings) as running:
                await case(running)

        run(inside())

    return go
