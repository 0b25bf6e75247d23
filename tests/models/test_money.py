"""Metering on the managed route: reservation before the call, charge after it, errors and headers for the caller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path

import openai
import orjson
import psycopg
import pytest
import redis
from prometheus_client import REGISTRY

from drw.api.gateway.v1.rate_limiting_pb2 import (
    Block,
    Budget,
    GetSpendRequest,
    Limit,
    ListBudgetsRequest,
    Policy,
    Price,
    WatchPolicyRequest,
)
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.billing.counters.rebuild import REBUILD_LOCK
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.models.serving.metering.estimates import prompt_token_bound
from models.cluster import ModelsCluster, StartCluster
from models.double_engine import WORDS
from support.gateway.keys import announce
from support.gateway.money import until_counters_open
from support.json_types import Json, JsonObject

TEXT = "".join(WORDS)
BOSS = Principal("acme", "research", "key_boss", frozenset(SCOPES))
PROMPT, COMPLETION = 5, 3
"""What the double counts."""


def ask(how: str = "plain", **more: int) -> JsonObject:
    return {"model": "double", "messages": [{"role": "user", "content": how}], **more}


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


class BillingHarness:
    """Rate limiting of a running cluster."""

    def __init__(self, cluster: ModelsCluster) -> None:
        self.cluster = cluster
        self.client = cluster.host.client(RateLimitingClient)
        self.file = cluster.host.profile.data / "serving" / "policy.pb"
        self.seen = 0

    async def set(self, budget: str = "", **price: Json) -> None:
        """Set the price of the model and the budget of the desk, and wait until they apply."""
        with acting_for(BOSS):
            if price:
                await self.client.set_price(Price(model="double", **price))
            if budget:
                desk = Budget(subject=Block.DESK, name="research", period=Budget.DAY, amount=budget)
                await self.client.set_budget(desk)
        await self.wait_for_policy()

    async def wait_for_policy(self) -> None:
        """Wait until serving has the newest policy of rate limiting."""
        async with aclosing(self.client.watch_policy(WatchPolicyRequest())) as news:
            policy = await anext(news)

        def has_policy() -> bool:
            return self.file.exists() and Policy.FromString(self.file.read_bytes()) == policy

        await self.cluster.until(has_policy, "the newest prices and budgets")
        self.seen = len(self.rows())

    def rows(self) -> list[JsonObject]:
        with psycopg.connect(self.cluster.database, row_factory=psycopg.rows.dict_row) as connection:
            return connection.execute("select * from metering.ledger order by at, id").fetchall()

    def new(self) -> list[JsonObject]:
        """Return the rows since the last call."""
        rows = self.rows()
        new_rows, self.seen = rows[self.seen :], len(rows)
        return new_rows

    async def budget(self) -> Budget:
        with acting_for(BOSS):
            return (await self.client.list_budgets(ListBudgetsRequest())).budgets[0]


Billing = Callable[..., AbstractAsyncContextManager[BillingHarness]]
"""Starts the cluster: `async with billing(small=..., **settings) as at`."""


@pytest.fixture
def billing(start: StartCluster) -> Billing:
    @asynccontextmanager
    async def begin(**more: Json) -> AsyncIterator[BillingHarness]:
        async with start(more=("rate_limiting",), **more) as cluster:
            harness = BillingHarness(cluster)
            await until_counters_open(cluster.host.profile)
            await harness.wait_for_policy()
            yield harness

    return begin


async def test_an_answer_is_charged_before_it_is_returned(billing: Billing) -> None:
    async with billing() as at:
        await at.set(budget="1", prompt_usd_per_million="2", completion_usd_per_million="10")
        before = await at.budget()
        answer = await at.cluster.http.post("/v1/chat/completions", json=ask(max_tokens=100))
        assert answer.status_code == 200
        (row,) = at.new()
        assert row["cost"] == PROMPT * 2000 + COMPLETION * 10_000
        assert (row["org"], row["desk"], row["key"], row["model"]) == ("acme", "research", "key_test", "double")
        assert (row["outcome"], row["counted_by"], row["route"], row["upstream"]) == ("ok", "engine", "managed", "up-1")
        after = await at.budget()
        assert (after.reserved, after.amount) == ("0.00", "1.00")
        assert float(after.spent) - float(before.spent) == pytest.approx(0.00004)
        record = at.cluster.records()[-1]
        assert record["details"]["ledger"] == row["id"]
        assert record["details"]["cost_usd"] == "0.00004"
        with psycopg.connect(at.cluster.database) as connection:  # one commit has both
            query = """select (select xmin::text from audit.inbox order by id desc limit 1), xmin::text
                       from metering.ledger where id = %s"""
            amounts = connection.execute(query, (row["id"],)).fetchone()
            assert amounts is not None and amounts[0] == amounts[1]
        with acting_for(BOSS):
            spend = await at.client.get_spend(GetSpendRequest(by="model"))
        assert spend.lines[0].name == "double" and float(spend.usd) == pytest.approx(float(after.spent))


async def test_a_call_above_its_budget_is_rejected_with_openais_code(billing: Billing) -> None:
    async with billing() as at:
        await at.set(budget="0.0001", completion_usd_per_million="10")
        with pytest.raises(openai.RateLimitError, match="the desk 'research' has") as caught:
            await at.cluster.client.chat.completions.create(**ask(max_tokens=1000))
        assert caught.value.code == "insufficient_quota"
        assert at.cluster.records()[-1]["outcome"] == "refused"
        assert at.cluster.double.bodies == []  # the engine was not asked


async def test_a_call_rejected_before_the_engine_counts_for_its_model(billing: Billing) -> None:
    operation = {f"gen_ai_{name}_model": "double" for name in ("request", "response")}
    labels = operation | {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "openai"}
    ended = labels | {"error_type": "InsufficientQuota"}
    async with billing() as at:
        await at.set(budget="0.0001", completion_usd_per_million="10")
        served = sample("gen_ai_server_request_duration_seconds_count", **ended, outcome="refused")
        called = sample("gen_ai_client_operation_duration_seconds_count", **ended)
        assert (await at.cluster.http.post("/v1/chat/completions", json=ask(max_tokens=1000))).status_code == 429
        assert sample("gen_ai_server_request_duration_seconds_count", **ended, outcome="refused") == served + 1
        assert sample("gen_ai_client_operation_duration_seconds_count", **ended) == called + 1


@pytest.mark.parametrize("how", ["plain", "thinking"])
async def test_a_stream_at_the_budget_ends_with_an_error_event(billing: Billing, how: str) -> None:
    async with billing(metering={"min_tokens": 1}) as at:
        await at.set(budget="0.00002", completion_usd_per_million="10")  # two tokens
        answer = await at.cluster.http.post("/v1/chat/completions", json=ask(how, stream=True))
        events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
        assert "[DONE]" not in events
        assert orjson.loads(events[-1])["error"]["code"] == "insufficient_quota"
        assert [(row["outcome"], row["completion_tokens"]) for row in at.new()] == [("cut", 2)]
        assert (await at.budget()).left == "0.00"


@pytest.mark.parametrize("how", ["cut", "no_done", "error_event"])
async def test_tokens_before_an_engine_crash_are_charged(billing: Billing, how: str) -> None:
    async with billing() as at:
        await at.set(prompt_usd_per_million="0", completion_usd_per_million="10")
        await at.cluster.http.post("/v1/chat/completions", json=ask(how, stream=True))
        (row,) = at.new()
        charged_tokens = {"cut": 1, "no_done": COMPLETION, "error_event": 1}[how]
        assert (row["outcome"], row["completion_tokens"], row["cost"]) == (
            "failed",
            charged_tokens,
            charged_tokens * 10_000,
        )
        await at.cluster.http.post("/v1/chat/completions", json=ask("status_500"))
        assert [(row["cost"], row["counted_by"]) for row in at.new()] == [(0, "nothing")] * 3  # it was tried again


async def test_a_disconnected_caller_pays_for_received_tokens(billing: Billing) -> None:
    async with billing() as at:
        await at.set(budget="1", completion_usd_per_million="10")
        body = ask("stall", stream=True, max_tokens=9)
        async with at.cluster.http.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.aiter_lines()  # whose end would end the answer
            event = await anext(lines)
            assert orjson.loads(event.removeprefix("data: "))["choices"][0]["delta"]["content"] == WORDS[0]
            assert float((await at.budget()).reserved) > 0
        new_rows: list[JsonObject] = []

        def arrived() -> bool:
            new_rows.extend(at.new())
            return bool(new_rows)

        await at.cluster.until(arrived, "the row in the ledger")
        (row,) = new_rows
        assert (row["outcome"], row["completion_tokens"], row["cost"]) == ("client_gone", 1, 10_000)
        bound = prompt_token_bound({"messages": body["messages"], "max_tokens": 9}, 0)
        assert (row["counted_by"], row["prompt_tokens"]) == ("chunks", bound)
        async with asyncio.timeout(20):
            while (await at.budget()).reserved != "0.00":
                await asyncio.sleep(0.02)


async def test_a_model_at_capacity_uses_its_fallback_and_vice_versa(
    billing: Billing,
) -> None:
    async with billing(fallback={}) as at:
        await at.set(completion_usd_per_million="10")

        async def bounded(model: str, requests: int) -> None:
            with acting_for(BOSS):
                await at.client.set_limit(Limit(subject=Block.MODEL, model=model, requests_per_minute=requests))
            await at.wait_for_policy()

        async def answers(model: str) -> str:
            answer = await at.cluster.http.post("/v1/chat/completions", json=ask() | {"model": model})
            return answer.headers.get("x-drw-model") or answer.json()["error"]["code"]

        await bounded("other", 1)
        assert [await answers("other"), await answers("other")] == ["other", "rate_limit_exceeded"]
        assert await answers("double") == "double"
        await bounded("other", 100)
        await bounded("double", 1)
        assert [await answers("double"), await answers("double")] == ["double", "other"]


async def test_an_answer_without_a_limit_is_limited_by_the_reservation(billing: Billing) -> None:
    async with billing(metering={"max_tokens": 50}) as at:
        await at.cluster.http.post("/v1/chat/completions", json=ask())
        await at.set(completion_usd_per_million="10")
        await at.cluster.http.post("/v1/chat/completions", json=ask())
        await at.cluster.http.post("/v1/chat/completions", json=ask(max_completion_tokens=70))
        bounds = [{k: v for k, v in body.items() if k.startswith("max_")} for body in at.cluster.double.bodies]
        assert bounds == [{}, {"max_tokens": 50}, {"max_completion_tokens": 70}]


async def test_embeddings_are_charged(billing: Billing) -> None:
    async with billing() as at:
        with acting_for(BOSS):
            await at.client.set_price(Price(model="vectors", prompt_usd_per_million="1"))
        await at.wait_for_policy()
        await at.cluster.client.embeddings.create(model="vectors", input=["one", "two"])
        assert at.rows()[-1]["cost"] == 2 * 1000
        assert (at.rows()[-1]["route"], at.rows()[-1]["prompt_tokens"]) == ("embedding", 2)


async def test_tokens_a_minute_are_limited_with_headers(billing: Billing) -> None:
    async with billing() as at:
        await announce(at.client, "key_test")
        with acting_for(BOSS):
            key_limit = Limit(key="key_test", tokens_per_minute=200, algorithm=Limit.SLIDING)
            await at.client.set_limit(key_limit)
        await at.wait_for_policy()
        answer = await at.cluster.http.post("/v1/chat/completions", json=ask(max_tokens=10))
        headers = answer.headers
        assert headers["x-ratelimit-limit-tokens"] == "200"
        assert headers["ratelimit-policy"] == '"tokens";q=200;w=60'
        assert 0 < int(headers["x-ratelimit-remaining-tokens"]) < 190
        assert headers["ratelimit"].startswith('"tokens";r=')
        limit_tokens = int(headers["x-ratelimit-remaining-tokens"]) + 10  # with its prompt all of the limit
        rejected = await at.cluster.http.post("/v1/chat/completions", json=ask(max_tokens=limit_tokens))
        assert (rejected.status_code, rejected.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert 0 < int(rejected.headers["retry-after"]) <= 65
        over_limit = await at.cluster.http.post("/v1/chat/completions", json=ask(max_tokens=limit_tokens + 1))
        assert over_limit.status_code == 429 and "retry-after" not in over_limit.headers


async def test_counters_are_rebuilt_from_the_ledger_after_data_loss(billing: Billing, profile: Profile) -> None:
    async with billing() as at:
        await at.set(budget="1", completion_usd_per_million="10")
        await at.cluster.http.post("/v1/chat/completions", json=ask(max_tokens=5))
        before = await at.budget()
        assert before.spent == "0.00003"
        with psycopg.connect(at.cluster.database) as alone:
            alone.execute("select pg_advisory_xact_lock(%s)", (REBUILD_LOCK,))  # nobody rebuilds the counters meanwhile
            redis.Redis.from_url(profile.valkey).flushdb()
            answer = await at.cluster.http.post("/v1/chat/completions", json=ask(max_tokens=5))
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        async with asyncio.timeout(30):
            while (
                answer := await at.cluster.http.post("/v1/chat/completions", json=ask(max_tokens=5))
            ).status_code != 200:
                assert (answer.status_code, answer.headers["retry-after"]) in [(503, "5"), (503, "2")]
        after = await at.budget()
        assert after.spent == "0.00006"


async def test_free_calls_do_not_need_valkey(start: StartCluster, profile: Profile) -> None:
    away = profile.model_copy(update={"valkey": "unix:///nowhere"})
    async with start(more=("rate_limiting",), on=away) as cluster:
        at = BillingHarness(cluster)
        await at.wait_for_policy()
        answer = await cluster.http.post("/v1/chat/completions", json=ask())
        assert answer.status_code == 200
        with acting_for(BOSS):
            await at.client.set_price(Price(model="double", completion_usd_per_million="1"))
        await at.wait_for_policy()
        answer = await cluster.http.post("/v1/chat/completions", json=ask())
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert "Valkey does not answer" in answer.text


async def test_the_real_engine_counts_prompts_and_streamed_tokens(billing: Billing, engine: Path) -> None:
    async with billing(small=engine) as at:
        with acting_for(BOSS):
            await at.client.set_price(Price(model="small", prompt_usd_per_million="1", completion_usd_per_million="1"))
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name three rates desks."}]
        await at.wait_for_policy()
        body = {"model": "small", "messages": messages, "max_tokens": 24, "seed": 1}
        answer = await at.cluster.http.post("/v1/chat/completions", json=body)
        usage, row = answer.json()["usage"], at.rows()[-1]
        assert (row["prompt_tokens"], row["completion_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
        assert row["excess"] == 0  # what was counted before was enough
        lines = []
        async with at.cluster.http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as stream:
            async for line in stream.aiter_lines():
                lines.append(line)
                if len([g for g in lines if '"content":"' in g]) == 3:
                    break
        await at.cluster.until(lambda: at.rows()[-1]["outcome"] == "client_gone", "the row in the ledger")
        rows = at.rows()
        assert rows[-1]["counted_by"] == "chunk_usage"
        assert rows[-1]["prompt_tokens"] == usage["prompt_tokens"]
        assert 3 <= rows[-1]["completion_tokens"] <= 24
