"""Reservations: races at the edge of a cap, cuts, attempts on several models."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from drw.api.gateway.v1.rate_limiting_pb2 import Block
from drw.billing.counters.client import CountersUnavailable
from drw.billing.reservations.errors import (
    EngineOvershot,
    InsufficientQuota,
    ModelAtCapacity,
    ReservationLost,
)
from drw.billing.subjects import Subject
from drw.kernel.errors import NEVER, ClientGone, RateLimited, http_headers
from drw.kernel.rpc.context import acting_for
from drw.models.serving.errors import ResponseTruncated
from drw.models.serving.metering.estimates import prompt_token_bound
from money.protocol import DESK, KEY, ONE, TOKEN, TWO, WHO, rows, spent
from money.world import BLOCK, LEASE, World, asked, report, token, usage


async def test_of_many_at_the_edge_only_as_many_pass_as_fit(on: World) -> None:
    gateways = [on.gateway() for _ in range(4)]

    async def ask(number: int):
        return await on.open(gateways[number % 4], WHO, ONE, prompt=3, most=7, stream=False)

    found = await asyncio.gather(*(ask(number) for number in range(64)), return_exceptions=True)
    passed = [call for call in found if not isinstance(call, BaseException)]
    assert len(passed) == 10
    assert {type(error) for error in found if isinstance(error, BaseException)} == {InsufficientQuota}
    assert await spent(on) == (0, 100 * TOKEN)
    await asyncio.gather(*(call.metered.finalize(ClientGone()) for call in passed))
    assert await spent(on) == (30 * TOKEN, 0)  # the prompts that the engine was asked with


async def test_a_refusal_says_which_limit_binds_and_what_is_left(on: World) -> None:
    with pytest.raises(InsufficientQuota) as caught:
        await on.open(on.gateway(), WHO, ONE, prompt=1, most=100, stream=False)
    assert caught.value.metadata["code"] == "insufficient_quota"
    assert caught.value.metadata["limit"] == "desk.money.day"
    assert "may cost 0.000101 USD; the desk 'rates' has 0.0001 USD left of 0.0001 USD for today" in str(caught.value)


@pytest.mark.parametrize(
    ("cap", "wish", "after"),
    [
        (("Cdn", 100 * TOKEN), 90, "30"),  # a day ends in 30 s
        (("Cmt", 100), 90, str(86_400 + 30)),
        (("Ctn", 100 * TOKEN), 90, NEVER),
        (("Cdn", 100 * TOKEN), 101, NEVER),
        (("Cw", 100), 90, "30"),
        (("Cw", 100), 101, NEVER),
    ],
)
async def test_a_refusal_says_when_to_come_back_where_that_would_help(
    on: World, cap: Any, wish: int, after: Any
) -> None:
    on.caps = [(DESK, *cap)]
    await on.push_caps()
    call = await on.open(on.gateway(), WHO, ONE, prompt=20, most=0, stream=False)
    await report(call.metered, usage(20, 0))
    await call.metered.finalize()
    with pytest.raises(RateLimited) as caught:
        await on.open(on.gateway(), WHO, ONE, prompt=1, most=wish - 1, stream=False)
    assert caught.value.metadata["retry_after"] == after
    assert http_headers(caught.value) == ({"retry-after": after} if after != NEVER else {})


async def test_a_process_that_died_and_has_nothing_left_is_not_waited_for_at_a_loss(on: World) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=5, stream=False)
    assert await on.ledger.holders() == {call.reservation.process}
    on.ms += LEASE * 1000 + 2000
    await on.tick()
    assert await on.ledger.holders() == set()
    await on.redis.flushdb()
    assert await on.rebuild.tick()


async def test_a_stream_that_does_not_fit_begins_and_is_cut_at_the_cap(on: World) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=1000, stream=True)
    assert await spent(on) == (0, 100 * TOKEN)
    for _ in range(90):
        await report(call.metered, token())
    with pytest.raises(InsufficientQuota, match="cut after 90 tokens") as caught:
        await report(call.metered, token())
    await call.metered.finalize(caught.value)
    assert await spent(on) == (100 * TOKEN, 0)
    (row,) = await rows(on)
    assert (row["completion_tokens"], row["outcome"], row["counted_by"]) == (90, "cut", "chunks")


async def test_every_choice_is_reserved_counted_and_cut(on: World) -> None:
    with pytest.raises(InsufficientQuota):
        await on.open(on.gateway(), WHO, ONE, prompt=10, most=40, stream=False, choices=4)
    call = await on.open(on.gateway(), WHO, ONE, prompt=9, most=40, stream=True, choices=4)
    for _ in range(91):
        await report(call.metered, call.next_token())
        call.delivered += 1
    with pytest.raises(InsufficientQuota, match="cut after 91 tokens") as caught:
        await report(call.metered, call.next_token())
    await call.metered.finalize(caught.value)
    assert await spent(on) == (100 * TOKEN, 0)
    assert [row["completion_tokens"] for row in await rows(on)] == [91]


async def test_an_engine_that_goes_on_behind_max_tokens_is_cut(on: World) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=2, stream=True)
    await report(call.metered, token())
    await report(call.metered, token())
    with pytest.raises(EngineOvershot, match="more than the 2 tokens"):
        await report(call.metered, token())


async def test_what_an_engine_counts_beyond_the_reservation_is_charged_to_nobody(on: World) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=5, stream=False)
    await report(call.metered, usage(20, 5))
    await call.metered.finalize()
    (row,) = await rows(on)
    assert (row["cost"], row["excess"], row["prompt_tokens"]) == (15 * TOKEN, 10 * TOKEN, 20)
    assert await spent(on) == (15 * TOKEN, 0)


@pytest.mark.parametrize(
    ("chunks", "charged", "by"),
    [
        ([token(), token(), usage(9, 40)], (9, 40), "engine"),
        ([token(), {**token(), "usage": {"prompt_tokens": 9, "completion_tokens": 7}}], (9, 7), "chunk_usage"),
        ([{**token(), "timings": {"prompt_n": 2, "cache_n": 7, "predicted_n": 5}}], (9, 5), "chunk_usage"),
        ([token(), token(), token()], (10, 3), "chunks"),
    ],
)
async def test_an_answer_that_is_left_is_charged_by_the_best_count_there_is(
    on: World, chunks: Any, charged: Any, by: str
) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=60, stream=True)
    for chunk in chunks:
        await report(call.metered, chunk)
    await call.metered.finalize(ClientGone())
    (row,) = await rows(on)
    assert (row["prompt_tokens"], row["completion_tokens"], row["counted_by"]) == (*charged, by)
    assert await spent(on) == (sum(charged) * TOKEN, 0)


async def test_an_engine_that_dies_before_its_first_token_costs_nothing(on: World) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=60, stream=True)
    await call.metered.finalize(CountersUnavailable("the engine died"))
    assert await spent(on) == (0, 0)
    assert [(row["cost"], row["outcome"], row["counted_by"]) for row in await rows(on)] == [(0, "failed", "nothing")]


async def test_each_attempt_is_charged_at_its_own_price(on: World) -> None:
    gateway = on.gateway()
    with acting_for(WHO):
        metered = await gateway.metering.reserve(asked((ONE, TWO), prompt=5, most=10, stream=True))
    assert await spent(on) == (0, 50 * TOKEN)  # at the dearest: 5 * 2 + 10 * 4
    await metered.begin(ONE)
    for _ in range(4):
        await report(metered, token())
    await metered.begin(TWO)  # which needs more than what is left of 50
    assert await spent(on) == (0, 59 * TOKEN)
    await report(metered, token())
    await report(metered, usage(5, 10))
    await metered.finalize()
    assert await spent(on) == (59 * TOKEN, 0)
    assert [(row["model"], row["cost"] // TOKEN) for row in await rows(on)] == [("one", 9), ("two", 50)]
    found = await on.counters.peek([Subject(Block.MODEL, "", "one"), Subject(Block.MODEL, "", "two")])
    assert [(values["tn"], values["n"]) for values in found] == [(9 * TOKEN, 0), (50 * TOKEN, 0)]


async def test_a_fallback_that_was_never_asked_is_not_charged(on: World) -> None:
    with acting_for(WHO):
        metered = await on.gateway().metering.reserve(asked((ONE, TWO), prompt=10, most=1000, stream=True))
    await metered.begin(ONE)
    for _ in range(80):
        await report(metered, token())
    with pytest.raises(InsufficientQuota, match="the desk 'rates' has 0.00 USD left") as caught:
        await metered.begin(TWO)
    await metered.finalize(caught.value)
    assert [(row["model"], row["cost"] // TOKEN, row["counted_by"]) for row in await rows(on)] == [
        ("one", 90, "chunks"),
        ("two", 0, "nothing"),
    ]
    assert await spent(on) == (90 * TOKEN, 0)


async def test_a_fallback_whose_attempt_was_not_written_down_is_not_charged(
    on: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = on.gateway()
    with acting_for(WHO):
        metered = await gateway.metering.reserve(asked((ONE, TWO), prompt=5, most=5, stream=True))
    await metered.begin(ONE)
    await report(metered, token())

    async def away(*args):
        raise CountersUnavailable("Valkey went away")

    monkeypatch.setattr(gateway.counters, "advance", away)
    with pytest.raises(CountersUnavailable) as caught:
        await metered.begin(TWO)
    await metered.finalize(caught.value)
    assert [(row["model"], row["cost"] // TOKEN) for row in await rows(on)] == [("one", 6), ("two", 0)]


async def test_an_answer_that_another_engine_gave_again_is_charged_once(on: World) -> None:
    with acting_for(WHO):
        metered = await on.gateway().metering.reserve(asked((ONE, TWO), prompt=5, most=5, stream=False))
    await metered.begin(ONE)
    await report(metered, token())
    await metered.begin(TWO)  # of the first one's nothing was given to anybody
    await report(metered, usage(5, 5))
    await metered.finalize()
    assert [(row["model"], row["cost"] // TOKEN) for row in await rows(on)] == [("one", 0), ("two", 30)]


@pytest.fixture
async def two_at_once(on: World) -> World:
    """The model `two` takes one call at once."""
    on.caps = [(Subject(Block.MODEL, "", "two"), "Cc", 1)]
    await on.push_caps()
    return on


async def under_way(on) -> list[tuple[int, int]]:
    found = await on.counters.peek([Subject(Block.MODEL, "", name) for name in ("one", "two")])
    return [(values["c"], values["n"] // TOKEN) for values in found]


async def test_a_fallback_without_room_refuses_nobody_who_does_not_need_it(two_at_once: World) -> None:
    on, gateway = two_at_once, two_at_once.gateway()
    calls = []
    for _ in range(3):
        with acting_for(WHO):
            calls.append(await gateway.metering.reserve(asked((ONE, TWO), prompt=5, most=5, stream=True)))
        await calls[-1].begin(ONE)
    assert await under_way(on) == [(3, 90), (0, 0)]
    await calls[0].begin(TWO)
    assert await under_way(on) == [(3, 90), (1, 30)]  # it holds what the call does
    with pytest.raises(ModelAtCapacity, match="the model 'two' has 1 calls under way"):
        await calls[1].begin(TWO)
    await calls[1].begin(ONE)  # whoever is full, another may be asked
    await report(calls[0], usage(5, 1))
    await calls[0].finalize()
    await calls[2].begin(TWO)
    for metered in calls[1:]:
        await metered.finalize(ClientGone())
    assert await under_way(on) == [(0, 0), (0, 0)]


async def test_a_model_without_room_leaves_the_call_to_the_next(two_at_once: World) -> None:
    on, gateway = two_at_once, two_at_once.gateway()
    first = await on.open(gateway, WHO, TWO, prompt=1, most=1, stream=False)
    with acting_for(WHO):
        metered = await gateway.metering.reserve(asked((TWO, ONE), prompt=1, most=1, stream=False))
    with pytest.raises(ModelAtCapacity):
        await metered.begin(TWO)
    await metered.begin(ONE)
    await report(metered, usage(1, 1))
    await metered.finalize()
    assert [(row["model"], row["cost"] // TOKEN) for row in await rows(on)] == [("one", 2)]
    with acting_for(WHO), pytest.raises(ModelAtCapacity):
        await gateway.metering.reserve(asked((TWO,), prompt=1, most=1, stream=False))
    await first.metered.finalize(ClientGone())


async def test_what_joined_a_reservation_is_released_by_whoever_settles_it(two_at_once: World) -> None:
    on = two_at_once
    with acting_for(WHO):
        metered = await on.gateway().metering.reserve(asked((ONE, TWO), prompt=5, most=5, stream=True))
    await metered.begin(ONE)
    await report(metered, token())
    await metered.begin(TWO)
    on.ms += LEASE * 1000 + 2000
    await on.tick()
    assert [(row["model"], row["cost"] // TOKEN) for row in await rows(on)] == [("one", 6), ("two", 10)]
    assert await under_way(on) == [(0, 0), (0, 0)]


@pytest.mark.parametrize("wrong", [-1000, 10**29, 1 << 31, True, 1.5, "7"])
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens"])
async def test_what_is_no_count_of_tokens_is_no_part_of_an_answer(on: World, name: str, wrong: Any) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=60, stream=True)
    await report(call.metered, token())
    with pytest.raises(ResponseTruncated, match=name) as caught:
        await report(call.metered, {"choices": [], "usage": {name: wrong}})
    await call.metered.finalize(caught.value)
    assert await spent(on) == (11 * TOKEN, 0)


async def test_a_count_that_comes_before_the_answer_does_not_end_it(on: World) -> None:
    early = await on.open(on.gateway(), WHO, ONE, prompt=10, most=20, stream=True)
    for chunk in (usage(10, 0), token(), token()):
        await report(early.metered, chunk)
    await early.metered.finalize(ClientGone())
    assert await spent(on) == (12 * TOKEN, 0)
    late = await on.open(on.gateway(), WHO, ONE, prompt=10, most=20, stream=True)
    for chunk in (token(), token(), usage(10, 0)):
        await report(late.metered, chunk)
    await late.metered.finalize(ClientGone())  # an engine that says less than it gave, of an answer without an end
    assert await spent(on) == (24 * TOKEN, 0)


async def test_tokens_beyond_the_reservation_are_charged_to_nobody(on: World) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=5, stream=False)
    await report(call.metered, usage(10, 1500))
    await call.metered.finalize()
    assert [(row["completion_tokens"], row["excess_tokens"]) for row in await rows(on)] == [(1500, 1495)]
    (found,) = await on.counters.peek([KEY])
    assert (found["tt"], found["dt"], found["t"]) == (15, 15, 0)
    await on.redis.flushdb()
    on.ms += LEASE * 1000
    assert await on.rebuild.tick()
    assert [values["tt"] for values in await on.counters.peek([KEY])] == [15]


async def test_what_a_process_says_late_of_tokens_is_charged_to_nobody(on: World) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=60, stream=True)
    await report(call.metered, token())
    on.ms += LEASE * 1000 + 2000
    await on.tick()
    await report(call.metered, usage(10, 500))
    await call.metered.finalize(ReservationLost("lost"))
    await on.tick()
    found = [(row["completion_tokens"], row["excess_tokens"]) for row in await rows(on)]
    assert found == [(BLOCK, 0), (500 - BLOCK, 440 + 60 - BLOCK)]
    assert [values["tt"] for values in await on.counters.peek([KEY])] == [10 + BLOCK]


async def test_a_tool_call_that_an_engine_holds_back_is_cut_too(on: World) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=5, stream=False)

    def held_back(count: int, **choice) -> dict:
        return {"choices": [{"index": 0, "delta": {}, **choice}], "timings": {"predicted_n": count}}

    await report(call.metered, held_back(5))
    with pytest.raises(EngineOvershot):
        await report(call.metered, held_back(6))
    await report(call.metered, held_back(6, finish_reason="tool_calls"))  # it is over: to cut it helps nobody


async def test_where_nothing_bounds_an_answer_the_engine_is_told_what_was_reserved(on: World) -> None:
    on.caps = []
    await on.push_caps()
    gateway, request = on.gateway(max_tokens=30), asked((ONE,), prompt=10, most=None, stream=False)
    with acting_for(WHO):
        metered = await gateway.metering.reserve(request)
    assert await metered.begin(ONE) == {"max_tokens": 30}
    bounded = replace(ONE, context_length=50)
    with acting_for(WHO):
        metered = await gateway.metering.reserve(replace(request, models=(bounded,)))
    assert await metered.begin(bounded) == {}  # its own room is what was reserved


def test_a_picture_in_a_prompt_is_no_text() -> None:
    def prompt(url: str) -> int:
        parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
        return prompt_token_bound({"messages": [{"role": "user", "content": parts}]}, 4096)

    assert prompt("data:image/png;base64," + "A" * 1_400_000) == prompt("") < 4096 + 300
    assert prompt("https://desk.example/x.png") == prompt("") + len("https://desk.example/x.png")
