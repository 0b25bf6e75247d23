"""All choices of all engines are counted: in usage, ledger and budget."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import orjson
import psycopg
import pytest
from aiohttp import web as server

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Budget, Policy, Price, WatchPolicyRequest
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from drw.models.serving.adapters.vertex import VertexEngine
from drw.models.serving.engines.prompts import PromptTokenizer
from drw.models.serving.ports import EngineTarget
from models.cluster import ModelsCluster, StartCluster
from models.openai.test_openai_api import TOOLS
from support.gateway.money import until_counters_open
from support.json_types import JsonObject

BOSS = Principal("acme", "research", "key_boss", frozenset(SCOPES))
EACH = 6
"""Tokens of each choice."""
CHAT: JsonObject = {"messages": [{"role": "user", "content": "Count."}]}
PROMPT: JsonObject = {"prompt": "One, two,"}


class CountsOneChoice:
    """An upstream that writes every choice and counts one, as llama.cpp does."""

    def __init__(self) -> None:
        self.bodies: list[JsonObject] = []

    async def serve(self, request: server.Request) -> server.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        response = server.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        chat = "messages" in body
        usage: JsonObject = {"prompt_tokens": 5, "completion_tokens": EACH, "total_tokens": 5 + EACH}
        usage["prompt_tokens_details"] = {"cached_tokens": 3}
        for word in range(EACH):
            end = "length" if word == EACH - 1 else None
            for index in range(body.get("n", 1)):
                said = {"delta": {"content": "x"}} if chat else {"text": "x"}
                of_choice = {} if chat or not end else {"usage": usage}
                await self.send(response, {"choices": [{"index": index, **said, "finish_reason": end}], **of_choice})
        if chat:
            await self.send(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def send(self, response: server.StreamResponse, event: JsonObject) -> None:
        await response.write(b"data: " + orjson.dumps(event) + b"\n\n")


@pytest.fixture
async def upstream(folder: Path) -> AsyncIterator[CountsOneChoice]:
    made = CountsOneChoice()
    app = server.Application()
    for path in ("chat/completions", "completions"):
        app.router.add_post(f"/v1/{path}", made.serve)
    runner = server.AppRunner(app)
    await runner.setup()
    await server.UnixSite(runner, f"{folder}/one.sock").start()
    yield made
    await runner.cleanup()


@pytest.fixture
def priced(start: StartCluster, engine: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> StartCluster:
    """Start the cluster with a price of a dollar for a million tokens, and a budget of so many tokens."""

    async def token(self: VertexEngine) -> dict[str, str]:
        return {}

    monkeypatch.setattr(VertexEngine, "_token", token)

    @asynccontextmanager
    async def begin(kind: str, tokens: int) -> AsyncIterator[ModelsCluster]:
        double: JsonObject = {} if kind == "openai" else {"engine": kind}
        double |= {
            "base_url": f"unix:{engine if kind == 'llama_cpp' else f'{folder}/one.sock'}",
            "context_length": 1024,
        }
        async with start(double=double, more=("rate_limiting",), metering={"min_tokens": 1}) as cluster:
            client = cluster.host.client(RateLimitingClient)
            await until_counters_open(cluster.host.profile)
            with acting_for(BOSS):
                price: JsonObject = {"prompt_usd_per_million": "0", "completion_usd_per_million": "1"}
                await client.set_price(Price(model="double", **price))
                await client.set_budget(
                    Budget(subject=Block.DESK, name="research", period=Budget.DAY, amount=f"{tokens / 1e6:f}")
                )
            async with aclosing(client.watch_policy(WatchPolicyRequest())) as news:
                policy = await anext(news)
            file = cluster.host.profile.data / "serving" / "policy.pb"
            await cluster.until(lambda: file.exists() and Policy.FromString(file.read_bytes()) == policy, "the price")
            yield cluster

    return begin


def ledger(cluster: ModelsCluster) -> list[tuple[int, int]]:
    with psycopg.connect(cluster.database) as connection:
        return connection.execute("select completion_tokens, cost from metering.ledger order by at, id").fetchall()


async def usage_of(cluster: ModelsCluster, path: str, body: JsonObject) -> JsonObject:
    answer = await cluster.http.post(f"/v1/{path}", json={"model": "double", "max_tokens": EACH, **body})
    assert answer.status_code == 200, answer.text
    if not body.get("stream"):
        return answer.json()["usage"]
    events = [orjson.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    return next(event["usage"] for event in events if event.get("usage"))


STREAM: JsonObject = {"stream": True, "stream_options": {"include_usage": True}}
ENDLESS: JsonObject = {"logit_bias": {"0": -100, "2": -100}}
"""Without the tokens that end an answer."""


@pytest.mark.parametrize("kind", ["llama_cpp", "openai", "vertex"])
async def test_usage_and_ledger_count_all_choices(priced: StartCluster, upstream: CountsOneChoice, kind: str) -> None:
    requests = [("chat/completions", CHAT), ("chat/completions", CHAT | STREAM)]
    if kind != "vertex":
        requests += [("completions", PROMPT), ("completions", PROMPT | STREAM)]
    if kind == "llama_cpp":
        requests = [(path, body | ENDLESS) for path, body in requests]
        requests += [("chat/completions", CHAT | more | {"tools": TOOLS, "max_tokens": 3}) for more in ({}, STREAM)]
    async with priced(kind, 10_000) as cluster:
        for n in (1, 3):
            for path, body in requests:
                before = len(ledger(cluster))
                usage = await usage_of(cluster, path, body | {"n": n})
                each = body.get("max_tokens", EACH)
                assert usage["completion_tokens"] == n * each, (path, body)
                assert usage["total_tokens"] == usage["prompt_tokens"] + n * each
                assert ledger(cluster)[before:] == [(n * each, n * each * 1000)]
                if kind != "llama_cpp":
                    assert "cached_tokens" not in orjson.dumps(usage).decode()


async def test_the_prompt_of_a_metered_chat_is_tokenized_once(
    priced: StartCluster, upstream: CountsOneChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenized, chat = [], PromptTokenizer.chat

    async def counting(self: PromptTokenizer, target: EngineTarget, messages: list[JsonObject]) -> list[int]:
        tokenized.append(messages)
        return await chat(self, target, messages)

    monkeypatch.setattr(PromptTokenizer, "chat", counting)
    async with priced("llama_cpp", 10_000) as cluster:
        for number, more in enumerate(({}, STREAM, {"tools": TOOLS}), start=1):
            await usage_of(cluster, "chat/completions", CHAT | more)
            assert len(tokenized) == number


@pytest.mark.parametrize("kind", ["llama_cpp", "openai"])
async def test_all_choices_together_stay_within_the_budget(
    priced: StartCluster, upstream: CountsOneChoice, kind: str
) -> None:
    async with priced(kind, 2 * EACH + 3) as cluster:
        body = {"model": "double", "max_tokens": EACH, "n": 4, **CHAT, **(ENDLESS if kind == "llama_cpp" else {})}
        rejected = await cluster.http.post("/v1/chat/completions", json=body)
        assert (rejected.status_code, rejected.json()["error"]["code"]) == (429, "insufficient_quota")
        cut = await cluster.http.post("/v1/chat/completions", json=body | STREAM)
        assert "insufficient_quota" in cut.text
        assert [tokens for tokens, _ in ledger(cluster)] == [2 * EACH + 3]


async def test_the_cache_salt_of_the_tenant_is_sent_if_enabled(
    start: StartCluster, folder: Path, upstream: CountsOneChoice
) -> None:
    one = {"base_url": f"unix:{folder}/one.sock"}
    async with start(double=one, openai={"cache_salt": True, "cache_salt_key": "k" * 32}) as cluster:
        usages = []
        for tenant in ({}, {"x-drw-key": "key_2"}, {"x-drw-desk": "fx"}, {"x-drw-walls": "w"}, {"x-drw-org": "b"}):
            answer = await cluster.http.post("/v1/chat/completions", json={"model": "double", **CHAT}, headers=tenant)
            usages.append(answer.json()["usage"])
        first_salt, again, *others = [body["cache_salt"] for body in upstream.bodies]
        assert first_salt == again and len({first_salt, *others}) == 4
        assert all("acme" not in salt and len(salt) == 32 for salt in (first_salt, *others))
        assert usages[0]["prompt_tokens_details"] == {"cached_tokens": 3}
        answer = await cluster.http.post(
            "/v1/chat/completions", json={"model": "double", **CHAT, "cache_salt": first_salt}
        )
        assert answer.status_code == 400
