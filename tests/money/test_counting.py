"""Prompts are counted before money is held for them, and an engine that does not count holds nobody up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Policy, Price
from drw.billing.subjects import Subject
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.clock import Clock
from drw.kernel.runtime.settings import Profile
from drw.models.serving.engines.token_counting import check_prompts
from drw.models.serving.errors import ContextLengthExceeded, EngineMisconfigured, EngineUnavailable, NotSupported
from drw.models.serving.metering.estimates import prompt_token_bound
from drw.models.serving.ports import CountedPrompt, EngineTarget
from drw.models.serving.routing.circuit_breaker import CircuitBreaker
from drw.models.serving.routing.load_balancing import Replica
from drw.models.serving.settings import CircuitSettings
from money.world import DoubleChat, World, asked, model, world

WHO = Principal("acme", "rates", "key_1")
DESK = Subject(Block.DESK, "acme", "rates")
PRICES = [Price(model=name, prompt_usd_per_million="1", completion_usd_per_million="1") for name in ("one", "two")]
PROMPT, MOST = 5, 10
BOUND = prompt_token_bound({"prompt": PROMPT}, 0)


class Counting(DoubleChat):
    """Counts as it is told, and keeps which places it was asked at."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)
        self.places: list[str] = []

    async def count_prompt(self, target, endpoint, body):
        self.places.append(target.base_url)
        answer = self.answers.pop(0) if self.answers else PROMPT
        if isinstance(answer, Exception):
            raise answer
        return CountedPrompt(answer)


class Hanging(DoubleChat):
    """Takes the question, and never answers."""

    asked = 0

    async def count_prompt(self, target, endpoint, body):
        self.asked += 1
        await asyncio.Event().wait()


def counting(name, engine, places=("x",)):
    replicas = (
        Replica(place, EngineTarget(name, place, "up", ""), CircuitBreaker(CircuitSettings(), Clock(), name, place))
        for place in places
    )
    return replace(model(name), engine=engine, replicas=tuple(replicas))


def opened(replica):
    for _ in range(5):
        replica.circuit.failed(replica.circuit.enter())


@pytest.fixture
async def on(profile: Profile) -> AsyncIterator[World]:
    async with world(profile, Policy(prices=PRICES), [(DESK, "Cdn", 10**9)]) as made:
        yield made


async def held(on, *models, seconds: float | None = None) -> int:
    """Return the tokens that are held for a request."""
    request = asked(models, prompt=PROMPT, most=MOST, stream=False)
    if seconds is not None:
        request = replace(request, deadline=asyncio.get_running_loop().time() + seconds)
    with acting_for(WHO):
        metered = await on.gateway().metering.reserve(request)
    assert metered.reservation is not None
    await metered.finalize(asyncio.CancelledError())
    return metered.reservation.tokens


async def test_a_place_that_hangs_takes_a_part_of_the_time_and_is_let_alone_then(on: World) -> None:
    engine = Hanging()
    hanging = counting("one", engine)
    assert await held(on, hanging, seconds=0.1) == BOUND + MOST
    assert await held(on, hanging) == BOUND + MOST  # for ever, if it were asked
    assert engine.asked == 1


async def test_only_places_whose_circuit_is_closed_are_asked_and_the_least_busy_of_them(on: World) -> None:
    engine = Counting()
    found = counting("one", engine, ["a", "b", "c"])
    opened(found.replicas[0])
    found.replicas[1].outstanding = 1
    assert await held(on, found) == PROMPT + MOST
    assert engine.places == ["c"]
    for replica in found.replicas[1:]:
        opened(replica)
    assert await held(on, found) == BOUND + MOST
    assert engine.places == ["c"]


async def test_models_count_at_the_same_time(on: World) -> None:
    both = asyncio.Barrier(2)

    class Together(DoubleChat):
        async def count_prompt(self, target, endpoint, body):
            await both.wait()
            return CountedPrompt(PROMPT)

    async with asyncio.timeout(30):
        assert await held(on, counting("one", Together()), counting("two", Together())) == PROMPT + MOST


@pytest.mark.parametrize("error", [EngineUnavailable("gone"), EngineMisconfigured("404: it cannot count")])
async def test_a_fault_in_counting_is_for_the_attempt_to_find(on: World, error: Any) -> None:
    engine = Counting(error)
    found = counting("one", engine)
    assert await held(on, found) == BOUND + MOST
    assert await held(on, found) == BOUND + MOST
    assert len(engine.places) == 1


async def test_a_request_that_an_engine_cannot_take_is_no_fault_of_its_place(on: World) -> None:
    engine = Counting(NotSupported("messages", "this model reads text only"))
    found = counting("one", engine)
    assert await held(on, found) == BOUND + MOST
    assert await held(on, found) == PROMPT + MOST


async def test_a_prompt_is_counted_once_for_its_price_and_its_length(on: World) -> None:
    engine = Counting()
    bounded = replace(counting("one", engine), max_prompt_tokens=PROMPT - 1)
    request = asked([bounded], prompt="x" * 100, most=MOST, stream=False)
    with acting_for(WHO):
        metered = await on.gateway().metering.reserve(request)
    with pytest.raises(ContextLengthExceeded, match=f"{PROMPT} tokens; this model takes at most {PROMPT - 1}"):
        await check_prompts(bounded, bounded.replicas[0], request, request.body, request.deadline)
    assert engine.places == ["x"]
    other = {"prompt": "y" * 100}  # as where another engine continues the answer
    with pytest.raises(ContextLengthExceeded):
        await check_prompts(bounded, bounded.replicas[0], request, other, request.deadline)
    assert engine.places == ["x", "x"]
    await metered.finalize(asyncio.CancelledError())
