"""The protocol step by step: races at the edge of a cap, zombies, losses, cuts, attempts on several models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Limit, Policy, Price
from drw.billing.counters.client import Counters, CountersUnavailable
from drw.billing.counters.rebuild import CounterRebuild
from drw.billing.ledger.attempts import Attempt, AttemptHistory
from drw.billing.ledger.ledger import Ledger
from drw.billing.ledger.rows import Row, settlement_rows, total
from drw.billing.pricing.policy import CurrentPricing
from drw.billing.reservations.errors import (
    EngineOvershot,
    InsufficientQuota,
    LimitReached,
    ModelAtCapacity,
    ReservationLost,
)
from drw.billing.reservations.local_quota import LocalQuota, QuotaShare
from drw.billing.reservations.reaper import post
from drw.billing.subjects import Subject
from drw.kernel.errors import NEVER, ClientGone, RateLimited, Unavailable, http_headers
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.models.serving.errors import ResponseTruncated
from drw.models.serving.metering.budget_gate import BudgetGate
from drw.models.serving.metering.estimates import prompt_bound
from money.world import BEAT, BLOCK, LEASE, Call, World, asked, model, report, token, usage, world

WHO = Principal("acme", "rates", "key_1")
KEY, DESK = Subject(Block.KEY, "acme", "key_1"), Subject(Block.DESK, "acme", "rates")
ONE, TWO = model("one"), model("two")
POLICY = Policy(
    prices=[
        Price(model="one", prompt_usd_per_million="1", completion_usd_per_million="1"),
        Price(model="two", prompt_usd_per_million="2", completion_usd_per_million="4"),
    ]
)
TOKEN = 1000
"""Nano-dollars that a token of the model `one` costs."""


@pytest.fixture
async def on(profile: Profile) -> AsyncIterator[World]:
    """A desk that may spend what 100 tokens of the model `one` cost."""
    async with world(profile, POLICY, [(DESK, "Cdn", 100 * TOKEN)]) as made:
        yield made


async def spent(on) -> tuple[int, int]:
    (found,) = await on.counters.peek([DESK])
    return found["tn"], found["n"]


async def rows(on) -> list[dict]:
    return await on.database.all("select * from metering.ledger order by id")


def settled_rows(call: Call) -> list[Row]:
    """Return the ledger rows of a settled call."""
    assert call.metered.settlement is not None
    return list(call.metered.settlement.rows)


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
        return prompt_bound({"messages": [{"role": "user", "content": parts}]}, 4096)

    assert prompt("data:image/png;base64," + "A" * 1_400_000) == prompt("") < 4096 + 300
    assert prompt("https://desk.example/x.png") == prompt("") + len("https://desk.example/x.png")


class Away(Ledger):
    """Goes away before the rows are written, or after."""

    def __init__(self, on, *, written: bool) -> None:
        super().__init__(on.database)
        self.written = written

    async def put(self, rows, record="") -> bool:
        if self.written:
            await super().put(rows, record)
        raise Unavailable("the database does not answer")


@pytest.mark.parametrize(
    ("written", "stream", "paid"),
    [(False, False, ("failed", 0)), (False, True, ("failed", 12)), (True, False, ("ok", 12)), (True, True, ("ok", 12))],
)
async def test_an_answer_that_could_not_be_paid_is_not_owed_as_one_that_was_given(
    on: World, written: bool, stream: bool, paid: Any
) -> None:
    gateway = on.gateway()
    call = await on.open(gateway, WHO, ONE, prompt=10, most=20, stream=stream)
    for chunk in (token(), token(), usage(10, 2)):
        await report(call.metered, chunk)
    gateway.reservations._ledger = Away(on, written=written)
    with pytest.raises(Unavailable) as caught:
        await call.metered.finalize()
    await call.metered.finalize(caught.value)
    assert await spent(on) == (0, 30 * TOKEN)  # held until it is known
    gateway.reservations._ledger = on.ledger
    await gateway.reservations.beat()
    assert [(row["outcome"], row["cost"] // TOKEN) for row in await rows(on)] == [paid]
    assert await spent(on) == (paid[1] * TOKEN, 0)


async def test_a_row_that_cannot_be_written_is_no_other_calls_business(on: World) -> None:
    gateway = on.gateway()
    bad, good = [await on.open(gateway, WHO, ONE, prompt=3, most=7, stream=False) for _ in range(2)]
    good.metered.history.attempts[-1].completion_tokens = 7
    bad.metered.history.attempts[-1].completion_tokens = 10**29
    wrong, _ = [gateway.reservations.owe(call.reservation, "ok", "engine").rows for call in (bad, good)]
    other = settlement_rows("another", good.metered.history, at_ms=on.ms, max_cost=0, outcome="ok", counted_by="engine")
    ledger = gateway.reservations._ledger
    refused, written = await asyncio.gather(ledger.put(wrong), ledger.put(other), return_exceptions=True)
    assert isinstance(refused, TypeError) and written is True
    await gateway.reservations.beat()
    assert [row["id"] for row in await rows(on)] == sorted(["another", good.id])
    assert list(gateway.reservations._owed) == [bad.id]
    assert await spent(on) == (10 * TOKEN, 10 * TOKEN)


async def test_a_ledger_that_hangs_ends_no_lease(on: World, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = on.gateway(heartbeat_seconds=0.001)
    live, done = [await on.open(gateway, WHO, ONE, prompt=10, most=20, stream=stream) for stream in (True, False)]
    hangs, never, renewed = asyncio.Event(), asyncio.Event(), asyncio.Event()
    renew = gateway.counters.renew

    async def put(self, rows, record="") -> bool:
        hangs.set()
        return await never.wait()

    async def renews(*args) -> bool:
        answer = await renew(*args)
        renewed.set()
        return answer

    monkeypatch.setattr(Ledger, "put", put)
    monkeypatch.setattr(gateway.counters, "renew", renews)
    done.metered.history.attempts[-1].completion_tokens = 5
    gateway.reservations.owe(done.reservation, "ok", "engine")
    beating = asyncio.create_task(gateway.reservations.run())
    await hangs.wait()
    for _ in range(3):
        on.ms += LEASE * 600
        for _ in range(2):  # one may have begun before the clock went on
            renewed.clear()
            await renewed.wait()
        await report(live.metered, token())
    beating.cancel()
    monkeypatch.undo()
    await gateway.reservations.beat()
    await live.metered.finalize(ClientGone())
    assert await spent(on) == (28 * TOKEN, 0)


async def test_settling_twice_is_settling_once(on: World) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=5, most=5, stream=False)
    await report(call.metered, usage(5, 5))
    await call.metered.finalize()
    await call.metered.finalize()
    assert await on.counters.settle("", call.id, on.ms, total(settled_rows(call))) == "elsewhere"
    assert await spent(on) == (10 * TOKEN, 0)
    for _ in range(2):
        await on.ledger.put(settled_rows(call))
    assert len(await rows(on)) == 1


async def test_a_process_that_died_is_settled_at_what_it_wrote_ahead(on: World) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=60, stream=True)
    for _ in range(BLOCK + 1):
        await report(call.metered, token())
    on.ms += LEASE * 1000 - 1
    await on.tick()
    assert await spent(on) == (0, 70 * TOKEN)  # not yet
    on.ms += 2000
    await on.tick()
    (row,) = await rows(on)
    assert (row["completion_tokens"], row["outcome"], row["counted_by"]) == (2 * BLOCK, "abandoned", "written_ahead")
    assert await spent(on) == ((10 + 2 * BLOCK) * TOKEN, 0)


async def recorded(on, call, *chunks) -> None:
    """Leave the call as it is when its process dies between the ledger and the counters."""
    for chunk in chunks:
        await report(call.metered, chunk)
    call.metered._end_attempt(given=True, whole=True)
    most = call.reservation.nano
    await on.ledger.put(
        settlement_rows(call.id, call.metered.history, at_ms=on.ms, max_cost=most, outcome="ok", counted_by="engine")
    )


async def test_a_process_that_died_after_its_row_is_settled_by_its_row(on: World) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=60, stream=True)
    await recorded(on, call, token(), usage(8, 1))
    on.ms += LEASE * 1000 + 2000
    await on.tick()
    assert await spent(on) == (9 * TOKEN, 0)
    assert len(await rows(on)) == 1


async def test_what_was_in_the_ledger_at_a_loss_is_not_held_again(on: World) -> None:
    gateway = on.gateway()
    call = await on.open(gateway, WHO, ONE, prompt=10, most=60, stream=True)
    await recorded(on, call, token(), usage(8, 1))
    await on.redis.flushdb()
    await gateway.reservations.beat()
    assert await on.rebuild.tick()
    assert await spent(on) == (9 * TOKEN, 0)
    assert await on.counters.settle("", call.id, on.ms, [(DESK, 9 * TOKEN, 9)]) == "elsewhere"
    assert await spent(on) == (9 * TOKEN, 0)


async def test_a_process_that_was_paused_may_not_go_on_and_is_not_charged_twice(on: World) -> None:
    gateway = on.gateway()
    call = await on.open(gateway, WHO, ONE, prompt=10, most=60, stream=True)
    await report(call.metered, token())
    on.ms += LEASE * 1000 + 2000
    await on.tick()  # the reaper charges a whole block
    assert await spent(on) == ((10 + BLOCK) * TOKEN, 0)
    with pytest.raises(ReservationLost) as caught:
        await report(call.metered, token())
    await call.metered.finalize(caught.value)
    await on.tick()
    assert [(row["id"], row["completion_tokens"], row["counted_by"]) for row in await rows(on)] == [
        (call.id, BLOCK, "written_ahead"),
        (f"{call.id}/late", 1 - BLOCK, "chunks"),
    ]
    assert await spent(on) == (11 * TOKEN, 0)
    again = await on.open(gateway, WHO, ONE, prompt=1, most=1, stream=True)  # under a new lease
    await again.metered.finalize(ClientGone())


async def test_a_process_that_comes_back_while_it_is_settled_for_counts_what_the_ledger_has(
    on: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=60, stream=True)
    await report(call.metered, token())
    on.ms += LEASE * 1000 + 2000
    settle = on.counters.settle

    async def late(*args) -> Any:
        await call.metered.finalize(ReservationLost("lost"))  # between the reaper's row and its word to the counters
        return await settle(*args)

    monkeypatch.setattr(on.counters, "settle", late)
    await on.tick()
    await on.tick()
    assert [row["completion_tokens"] for row in await rows(on)] == [BLOCK, 1 - BLOCK]
    assert await spent(on) == (11 * TOKEN, 0)


async def test_a_whole_answer_whose_reservation_is_gone_is_given_to_nobody(on: World) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=60, stream=False)
    await report(call.metered, usage(10, 50))
    on.ms += LEASE * 1000 + 2000
    await on.tick()
    with pytest.raises(ReservationLost) as caught:
        await call.metered.finalize()
    await call.metered.finalize(caught.value)
    await on.tick()
    assert await spent(on) == (0, 0)


async def test_a_lease_that_only_its_own_process_takes_for_over_is_settled_once(on: World) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=60, stream=True)
    await report(call.metered, token())
    on.ms += LEASE * 1000 - 1000  # over by its own clock, which is careful; not by Valkey's
    await call.metered.finalize(ClientGone())
    assert await spent(on) == (11 * TOKEN, 0)
    await on.tick()
    assert await spent(on) == (11 * TOKEN, 0)
    assert [row["posted"] for row in await rows(on)] == [True]


async def test_a_lost_valkey_refuses_until_the_books_are_whole_and_live_streams_go_on(on: World) -> None:
    gateway = on.gateway()
    done = await on.open(gateway, WHO, ONE, prompt=10, most=5, stream=False)
    await report(done.metered, usage(10, 5))
    await done.metered.finalize()
    live = await on.open(gateway, WHO, ONE, prompt=10, most=20, stream=True)
    await report(live.metered, token())
    await on.redis.flushdb()
    with pytest.raises(CountersUnavailable, match="being rebuilt") as caught:
        await on.open(gateway, WHO, ONE, prompt=1, most=1, stream=False)
    assert caught.value.metadata["retry_after"] == "5"
    assert not await on.rebuild.tick()  # the process that calls something has not shown itself
    on.ms += BEAT * 1000
    await gateway.reservations.beat()
    assert await on.rebuild.tick()
    assert await spent(on) == (15 * TOKEN, 30 * TOKEN)
    await report(live.metered, token())
    await report(live.metered, usage(10, 2))
    await live.metered.finalize()
    assert await spent(on) == (27 * TOKEN, 0)


async def test_counters_of_another_ledger_are_dropped(on: World) -> None:
    await on.redis.set("drw:{meter}:epoch", "another.1")
    await on.counters.load({DESK.counter: {"tn": 5}})
    assert await on.rebuild.tick()
    assert await spent(on) == (0, 0)
    assert [key async for key in on.redis.scan_iter(match="drw:{meter}:s:*")] == [DESK.counter.encode()]  # its cap


async def test_what_is_settled_while_the_books_are_rebuilt_counts_once(on: World) -> None:
    gateway = on.gateway()
    call = await on.open(gateway, WHO, ONE, prompt=10, most=20, stream=False)
    await on.redis.flushdb()
    await gateway.reservations.beat()  # registers what it calls

    class Interrupted(CounterRebuild):
        async def _from_ledger(self, *args):
            if not call.metered.settlement:  # between the survey and the snapshot
                await report(call.metered, usage(10, 5))
                await call.metered.finalize()
            return await super()._from_ledger(*args)

    assert await on.rebuilding(Interrupted).tick()
    assert await spent(on) == (15 * TOKEN, 0)
    await gateway.reservations.beat()
    await on.tick()
    assert await spent(on) == (15 * TOKEN, 0)


async def test_calls_that_end_all_the_time_do_not_keep_the_books_from_being_rebuilt(
    on: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = on.gateway()
    first, second = [await on.open(gateway, WHO, ONE, prompt=10, most=20, stream=False) for _ in range(2)]
    await on.redis.flushdb()
    await gateway.reservations.beat()

    async def end(call) -> None:
        await report(call.metered, usage(10, 5))
        await call.metered.finalize()

    whole = Counters.open

    async def interrupted(*args) -> bool:
        if not second.metered.settlement:  # after the snapshot
            await end(second)
        return await whole(*args)

    class Interrupted(CounterRebuild):
        async def _from_ledger(self, *args):
            await end(first)
            return await super()._from_ledger(*args)

    monkeypatch.setattr(Counters, "open", interrupted)
    assert await on.rebuilding(Interrupted).tick()
    assert await spent(on) == (15 * TOKEN, 30 * TOKEN)  # what the snapshot has not is still held
    await gateway.reservations.beat()
    assert await spent(on) == (30 * TOKEN, 0)
    await on.tick()
    assert await spent(on) == (30 * TOKEN, 0)


async def test_a_reservation_that_went_with_the_last_second_of_valkey_is_counted_once(on: World) -> None:
    gateway = on.gateway()
    call = await on.open(gateway, WHO, ONE, prompt=10, most=20, stream=False)
    await on.lose(call)
    await report(call.metered, usage(10, 5))
    await call.metered.finalize()
    for _ in range(2):
        await on.tick()
        assert await spent(on) == (15 * TOKEN, 0)
    assert [row["posted"] for row in await rows(on)] == [True]


async def test_a_settlement_whose_answer_is_lost_counts_once(on: World, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = on.gateway()
    call = await on.open(gateway, WHO, ONE, prompt=10, most=20, stream=False)
    await report(call.metered, usage(10, 5))
    settle = Counters.settle

    async def unheard(*args) -> None:
        await settle(*args)
        raise CountersUnavailable("no answer")

    monkeypatch.setattr(Counters, "settle", unheard)
    await call.metered.finalize()
    monkeypatch.undo()
    await gateway.reservations.beat()
    await on.tick()
    assert await spent(on) == (15 * TOKEN, 0)


@pytest.mark.parametrize(
    "when", ["before the reaper looks", "before the reaper writes", "after the reaper has settled"]
)
async def test_a_process_that_was_paused_between_its_charge_and_the_ledger_is_counted_once(
    on: World, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=20, stream=False)
    await report(call.metered, usage(10, 5))
    call.metered._end_attempt(given=True)
    owed = call.gateway.reservations.owe(call.reservation, "ok", "engine")
    on.ms += LEASE * 1000 + 2000
    if when == "before the reaper looks":
        await call.gateway.reservations.commit(owed)
        assert await post(on.counters, on.ledger) == 1

    expired = Counters.expired

    async def resumed(*args):
        found = await expired(*args)
        await call.gateway.reservations.commit(owed)
        return found

    if when == "before the reaper writes":
        monkeypatch.setattr(Counters, "expired", resumed)
    await on.tick()
    monkeypatch.undo()
    if when == "after the reaper has settled":
        await call.gateway.reservations.commit(owed)
    for _ in range(2):
        await on.tick()
    assert await spent(on) == (sum(row["cost"] for row in await rows(on)), 0)


@pytest.mark.parametrize("how", ["settled", "posted"])
async def test_a_clock_that_is_ahead_does_not_begin_another_day(on: World, how: str) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=20, stream=False)
    await on.counters.post([("today", on.ms, [(DESK, 60 * TOKEN, 60)])], on.ms)
    ahead, charges = on.ms + 86_400_000, [(DESK, 10 * TOKEN, 10)]
    if how == "settled":
        await on.counters.settle(call.reservation.process, call.id, ahead, charges)
    else:
        await on.counters.post([("ahead", ahead, charges)], on.ms)
        await call.metered.finalize()
    with pytest.raises(InsufficientQuota, match="has 0.00003 USD left of 0.0001 USD for today"):
        await on.open(on.gateway(), WHO, ONE, prompt=1, most=30, stream=False)


async def test_a_row_that_was_read_long_ago_is_not_counted(on: World) -> None:
    with pytest.raises(CountersUnavailable, match="read too long ago"):
        await on.counters.post([("row", on.ms, [(DESK, TOKEN, 1)])], on.ms - 301_000)
    assert await spent(on) == (0, 0)


async def test_what_the_ledger_says_is_counted_is_not_remembered_for_long(on: World) -> None:
    history = AttemptHistory("acme", "rates", "key_1", "pass", [Attempt("one", started=True)])
    row = settlement_rows("pass_1", history, at_ms=on.ms, max_cost=0, outcome="ok", counted_by="engine", posted=False)
    await on.ledger.put(row)
    await on.tick()
    assert [row["posted"] for row in await rows(on)] == [True]
    assert 0 < await on.redis.ttl("drw:{meter}:posted:pass_1") <= 600


@pytest.mark.parametrize("how", ["a copy of the tables", "an older state"])
async def test_counters_of_a_ledger_that_was_put_back_are_dropped(on: World, how: str) -> None:
    gateway = on.gateway()
    call = await on.open(gateway, WHO, ONE, prompt=10, most=5, stream=False)
    await report(call.metered, usage(10, 5))
    await call.metered.finalize()
    if how == "an older state":
        await on.database.run("delete from metering.ledger")
        on.version -= 1
    else:
        await on.database.run("create table metering.copy (like metering.ledger including all)")
        await on.database.run("drop table metering.ledger")
        await on.database.run("alter table metering.copy rename to ledger")
    assert not await on.rebuild.tick()
    await gateway.reservations.beat()
    assert await on.rebuild.tick()
    assert await spent(on) == (0, 0)
    on.caps = [(DESK, "Cdn", TOKEN)]
    await on.push_caps()
    with pytest.raises(InsufficientQuota, match="of 0.000001 USD"):
        await on.open(on.gateway(), WHO, ONE, prompt=2, most=1, stream=False)


async def test_a_valkey_that_is_gone_refuses_money_at_once_and_shares_limits(on: World, profile: Profile) -> None:
    gone = Counters("unix:///nowhere", seconds=0.2)
    gateway = on.gateway()
    gateway.reservations._counters = gone
    with pytest.raises(CountersUnavailable, match="Valkey does not answer") as caught:
        await on.open(gateway, WHO, ONE, prompt=1, most=1, stream=False)
    assert caught.value.metadata["retry_after"] == "2"
    free = model("free")
    limits = [
        Limit(key="key_1", org="acme", tokens_per_minute=100, concurrent=3, when_lost=Limit.LOCAL_SHARE),
        Limit(subject=Block.DESK, org="acme", desk="strict", concurrent=3, when_lost=Limit.FAIL_CLOSED),
    ]
    gateway.metering = BudgetGate(CurrentPricing.fixed(Policy(limits=limits)), gateway.reservations)
    call = await on.open(gateway, WHO, free, prompt=40, most=20, stream=False)
    with pytest.raises(LimitReached, match="40 left of 100 for this minute"):
        await on.open(gateway, WHO, free, prompt=40, most=20, stream=False)
    await report(call.metered, usage(40, 2))
    await call.metered.finalize()
    await on.open(gateway, WHO, free, prompt=38, most=20, stream=False)
    with pytest.raises(CountersUnavailable):
        await on.open(gateway, Principal("acme", "strict", "key_2"), free, prompt=1, most=1, stream=False)
    await on.open(
        gateway, Principal("acme", "other", "key_3"), free, prompt=1, most=1, stream=False
    )  # bound by nothing
    await on.tick()
    assert (await on.counters.peek([KEY]))[0]["tt"] == 42  # what Valkey did not see it is told later
    await gone.close()


async def test_sliding_windows_and_fixed_ones(on: World) -> None:
    sliding, fixed = Subject(Block.KEY, "acme", "key_1"), Subject(Block.KEY, "acme", "key_2")
    on.caps = [(sliding, "Cw", 100), (sliding, "Cwa", "s"), (fixed, "Cw", 100), (fixed, "Cwa", "f"), (DESK, "Cc", 1)]
    await on.push_caps()
    on.ms += 20_000  # 23:59:50
    gateway, free = on.gateway(), model("free")
    limits = [Limit(key=f"key_{n}", org="acme", tokens_per_minute=100) for n in (1, 2)]
    gateway.metering = BudgetGate(CurrentPricing.fixed(Policy(limits=limits)), gateway.reservations)

    async def ask(key: str, tokens: int) -> None:
        call = await on.open(gateway, Principal("acme", "rates", key), free, prompt=tokens, most=1, stream=False)
        await report(call.metered, usage(tokens, 0))
        await call.metered.finalize()

    for key in ("key_1", "key_2"):
        await ask(key, 90)
        with pytest.raises(LimitReached, match="10 left of 100"):
            await ask(key, 20)
    on.ms += 15_000  # the minute of the clock is over, the last 60 seconds are not
    await ask("key_2", 90)
    with pytest.raises(LimitReached, match="10 left of 100") as caught:
        await ask("key_1", 20)
    assert caught.value.metadata["retry_after"] == "50"
    on.ms += 50_000
    await gateway.reservations.beat()
    await ask("key_1", 90)


async def test_a_beat_and_calls_that_pay_at_the_same_time(on: World, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = on.gateway()
    first, second = [await on.open(gateway, WHO, ONE, prompt=3, most=7, stream=False) for _ in range(2)]
    owed = []
    for call in (first, second):
        await report(call.metered, usage(3, 7))
        call.metered.history.attempts[-1].completion_tokens = 7
        owed.append(gateway.reservations.owe(call.reservation, "ok", "engine"))

    async def put(self, rows, record="") -> bool:
        monkeypatch.undo()
        await gateway.reservations.commit(owed[1])  # between the beat's look at what is owed and its turn
        return await self.put(rows, record)

    monkeypatch.setattr(Ledger, "put", put)
    await gateway.reservations.beat()
    assert await spent(on) == (20 * TOKEN, 0)


async def test_sums_are_exact_beyond_what_a_double_holds(on: World) -> None:
    nobody = Subject(Block.ORG, "uncapped", "")
    for number, nano in enumerate((2**53 - 1, 1, 1, 1, -1, -2)):
        await on.counters.post([(f"row_{number}", on.ms, [(nobody, nano, 0)])], on.ms)
    assert await on.redis.hget(nobody.counter, "tn") == str(2**53 - 1).encode()


def test_a_share_holds_what_is_under_way_over_the_end_of_a_minute() -> None:
    now = 30.0
    shares, away = LocalQuota(1, lambda: now), CountersUnavailable("away")
    limits = [(KEY, Limit(tokens_per_minute=100, when_lost=Limit.LOCAL_SHARE))]

    def enter() -> QuotaShare:
        share = QuotaShare(shares, limits, 90, away)
        share.enter([KEY])
        return share

    first = enter()
    now = 70.0
    with pytest.raises(LimitReached, match="10 left of 100"):
        enter()
    first.leave(5)
    second = enter()
    with pytest.raises(LimitReached, match="5 left of 100"):
        enter()
    second.leave(90)
    with pytest.raises(LimitReached, match="5 left of 100"):
        enter()


async def test_rows_that_are_counted_together_count_as_one_after_the_other(on: World) -> None:
    on.caps = [(DESK, "Cw", 1000)]
    await on.push_caps()
    first = [(f"row_{n}", on.ms - 6000 * n, [(DESK, TOKEN, 2), (KEY, TOKEN, 2)]) for n in (3, 2, 1, 0)]
    assert await on.counters.post(first, on.ms) == 4
    assert await on.counters.post([*first, ("row_4", on.ms - 86_400_000, [(DESK, TOKEN, 2)])], on.ms) == 1
    desk, key = await on.counters.peek([DESK, KEY])
    assert (desk["tn"], desk["dn"], desk["tt"], desk["wt"]) == (5 * TOKEN, 4 * TOKEN, 10, 10)
    assert (key["tn"], key["tt"]) == (4 * TOKEN, 8)
