"""Prompts are counted before they are reserved; an engine that fails to count does not delay calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from drw.api.gateway.v1.rate_limiting_pb2 import Policy, Price
from drw.kernel.errors import DrwError
from drw.kernel.rpc.context import acting_for
from drw.kernel.runtime.clock import Clock
from drw.kernel.runtime.settings import Profile
from drw.models.serving.engines.token_counting import check_prompts
from drw.models.serving.errors import ContextLengthExceeded, EngineMisconfigured, EngineUnavailable, NotSupported
from drw.models.serving.metering.estimates import prompt_token_bound
from drw.models.serving.ports import CountedPrompt, EngineTarget
from drw.models.serving.routing.candidates import ChatModel
from drw.models.serving.routing.circuit_breaker import CircuitBreaker
from drw.models.serving.routing.load_balancing import Replica
from drw.models.serving.settings import CircuitSettings
from money.metering_cluster import DoubleChat, MeteringCluster, model, model_request, running_cluster
from money.protocol import CALLER, DESK
from support.json_types import JsonObject

PRICES = [Price(model=name, prompt_usd_per_million="1", completion_usd_per_million="1") for name in ("one", "two")]
PROMPT, MAX_TOKENS = 5, 10
BOUND = prompt_token_bound({"prompt": PROMPT}, 0)


class CountingChat(DoubleChat):
    """Returns the given counts, and records the endpoints."""

    def __init__(self, *results: int | Exception) -> None:
        self.results = list(results)
        self.urls: list[str] = []

    async def count_prompt(self, target: EngineTarget, endpoint: str, body: JsonObject) -> CountedPrompt:
        self.urls.append(target.base_url)
        result = self.results.pop(0) if self.results else PROMPT
        if isinstance(result, Exception):
            raise result
        return CountedPrompt(result)


class HangingChat(DoubleChat):
    """Never responds."""

    calls = 0

    async def count_prompt(self, target: EngineTarget, endpoint: str, body: JsonObject) -> None:
        self.calls += 1
        await asyncio.Event().wait()


def model_with(name: str, engine: DoubleChat, urls: Sequence[str] = ("x",)) -> ChatModel:
    replicas = (
        Replica(url, EngineTarget(name, url, "up", ""), CircuitBreaker(CircuitSettings(), Clock(), name, url))
        for url in urls
    )
    return replace(model(name), engine=engine, replicas=tuple(replicas))


def open_circuit(replica: Replica) -> None:
    for _ in range(5):
        replica.circuit.failed(replica.circuit.enter())


@pytest.fixture
async def cluster(profile: Profile) -> AsyncIterator[MeteringCluster]:
    async with running_cluster(profile, Policy(prices=PRICES), [(DESK, "Cdn", 10**9)]) as cluster:
        yield cluster


async def reserved_tokens(cluster: MeteringCluster, *models: ChatModel, seconds: float | None = None) -> int:
    """Return the tokens that are reserved for a request."""
    request = model_request(models, prompt=PROMPT, max_tokens=MAX_TOKENS, stream=False)
    if seconds is not None:
        request = replace(request, deadline=asyncio.get_running_loop().time() + seconds)
    with acting_for(CALLER):
        metered = await cluster.gateway().metering.reserve(request)
    assert metered.reservation is not None
    await metered.finalize(asyncio.CancelledError())
    return metered.reservation.tokens


async def test_an_endpoint_that_hangs_while_counting_is_skipped_afterwards(cluster: MeteringCluster) -> None:
    engine = HangingChat()
    hanging = model_with("one", engine)
    assert await reserved_tokens(cluster, hanging, seconds=0.1) == BOUND + MAX_TOKENS
    assert await reserved_tokens(cluster, hanging) == BOUND + MAX_TOKENS  # the endpoint would hang again
    assert engine.calls == 1


async def test_the_least_busy_endpoint_with_a_closed_circuit_counts(cluster: MeteringCluster) -> None:
    engine = CountingChat()
    counted_model = model_with("one", engine, ["a", "b", "c"])
    open_circuit(counted_model.replicas[0])
    counted_model.replicas[1].outstanding = 1
    assert await reserved_tokens(cluster, counted_model) == PROMPT + MAX_TOKENS
    assert engine.urls == ["c"]
    for replica in counted_model.replicas[1:]:
        open_circuit(replica)
    assert await reserved_tokens(cluster, counted_model) == BOUND + MAX_TOKENS
    assert engine.urls == ["c"]


async def test_models_count_concurrently(cluster: MeteringCluster) -> None:
    barrier = asyncio.Barrier(2)

    class BarrierChat(DoubleChat):
        async def count_prompt(self, target: EngineTarget, endpoint: str, body: JsonObject) -> CountedPrompt:
            await barrier.wait()
            return CountedPrompt(PROMPT)

    async with asyncio.timeout(30):
        assert (
            await reserved_tokens(cluster, model_with("one", BarrierChat()), model_with("two", BarrierChat()))
            == PROMPT + MAX_TOKENS
        )


@pytest.mark.parametrize("error", [EngineUnavailable("gone"), EngineMisconfigured("404: it cannot count")])
async def test_an_error_while_counting_does_not_fail_the_reservation(cluster: MeteringCluster, error: DrwError) -> None:
    engine = CountingChat(error)
    counted_model = model_with("one", engine)
    assert await reserved_tokens(cluster, counted_model) == BOUND + MAX_TOKENS
    assert await reserved_tokens(cluster, counted_model) == BOUND + MAX_TOKENS
    assert len(engine.urls) == 1


async def test_an_unsupported_request_does_not_open_the_circuit(cluster: MeteringCluster) -> None:
    engine = CountingChat(NotSupported("messages", "this model reads text only"))
    counted_model = model_with("one", engine)
    assert await reserved_tokens(cluster, counted_model) == BOUND + MAX_TOKENS
    assert await reserved_tokens(cluster, counted_model) == PROMPT + MAX_TOKENS


async def test_a_prompt_is_counted_once_for_price_and_context_length(cluster: MeteringCluster) -> None:
    engine = CountingChat()
    bounded = replace(model_with("one", engine), max_prompt_tokens=PROMPT - 1)
    request = model_request([bounded], prompt="x" * 100, max_tokens=MAX_TOKENS, stream=False)
    with acting_for(CALLER):
        metered = await cluster.gateway().metering.reserve(request)
    with pytest.raises(ContextLengthExceeded, match=f"{PROMPT} tokens; this model takes at most {PROMPT - 1}"):
        await check_prompts(bounded, bounded.replicas[0], request, request.body, request.deadline)
    assert engine.urls == ["x"]
    other = {"prompt": "y" * 100}  # as for the continuation by another engine
    with pytest.raises(ContextLengthExceeded):
        await check_prompts(bounded, bounded.replicas[0], request, other, request.deadline)
    assert engine.urls == ["x", "x"]
    await metered.finalize(asyncio.CancelledError())
