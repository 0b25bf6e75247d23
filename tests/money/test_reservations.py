"""Reservations: races at the edge of a cap, cuts, attempts on several models."""

from __future__ import annotations

import asyncio
from dataclasses import replace

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
from drw.kernel.errors import NEVER, ClientDisconnected, RateLimited, http_headers
from drw.kernel.rpc.context import acting_for
from drw.models.serving.errors import ResponseTruncated
from drw.models.serving.metering.estimates import prompt_token_bound
from money.metering_cluster import BLOCK, LEASE, Call, MeteringCluster, model_request, report, token, usage
from money.protocol import CALLER, DESK, KEY, ONE, TOKEN, TWO, rows, spent
from support.json_types import Json, JsonObject


async def test_concurrent_reservations_never_exceed_the_cap(cluster: MeteringCluster) -> None:
    gateways = [cluster.gateway() for _ in range(4)]

    async def reserve(number: int) -> Call:
        return await cluster.open(gateways[number % 4], CALLER, ONE, prompt=3, max_tokens=7, stream=False)

    results = await asyncio.gather(*(reserve(number) for number in range(64)), return_exceptions=True)
    admitted = [call for call in results if not isinstance(call, BaseException)]
    assert len(admitted) == 10
    assert {type(error) for error in results if isinstance(error, BaseException)} == {InsufficientQuota}
    assert await spent(cluster) == (0, 100 * TOKEN)
    await asyncio.gather(*(call.metered.finalize(ClientDisconnected()) for call in admitted))
    assert await spent(cluster) == (30 * TOKEN, 0)  # the prompts


async def test_an_error_names_the_exhausted_budget_and_the_remaining_amount(cluster: MeteringCluster) -> None:
    with pytest.raises(InsufficientQuota) as caught:
        await cluster.open(cluster.gateway(), CALLER, ONE, prompt=1, max_tokens=100, stream=False)
    assert caught.value.metadata["code"] == "insufficient_quota"
    assert caught.value.metadata["limit"] == "desk.money.day"
    assert "may cost 0.000101 USD; the desk 'rates' has 0.0001 USD left of 0.0001 USD for today" in str(caught.value)


@pytest.mark.parametrize(
    ("cap", "requested_tokens", "retry_after"),
    [
        (("Cdn", 100 * TOKEN), 90, "30"),  # a day ends in 30 s
        (("Cmt", 100), 90, str(86_400 + 30)),
        (("Ctn", 100 * TOKEN), 90, NEVER),
        (("Cdn", 100 * TOKEN), 101, NEVER),
        (("Cw", 100), 90, "30"),
        (("Cw", 100), 101, NEVER),
    ],
)
async def test_an_error_has_retry_after_if_a_retry_can_succeed(
    cluster: MeteringCluster, cap: tuple[str, int], requested_tokens: int, retry_after: str
) -> None:
    cluster.caps = [(DESK, *cap)]
    await cluster.push_caps()
    call = await cluster.open(cluster.gateway(), CALLER, ONE, prompt=20, max_tokens=0, stream=False)
    await report(call.metered, usage(20, 0))
    await call.metered.finalize()
    with pytest.raises(RateLimited) as caught:
        await cluster.open(cluster.gateway(), CALLER, ONE, prompt=1, max_tokens=requested_tokens - 1, stream=False)
    assert caught.value.metadata["retry_after"] == retry_after
    assert http_headers(caught.value) == ({"retry-after": retry_after} if retry_after != NEVER else {})


async def test_a_rebuild_does_not_wait_for_a_dead_process_that_is_settled(cluster: MeteringCluster) -> None:
    call = await cluster.open(cluster.gateway(), CALLER, ONE, prompt=10, max_tokens=5, stream=False)
    assert await cluster.ledger.holders() == {call.reservation.process}
    cluster.ms += LEASE * 1000 + 2000
    await cluster.tick()
    assert await cluster.ledger.holders() == set()
    await cluster.redis.flushdb()
    assert await cluster.rebuild.tick()


async def test_a_stream_larger_than_its_budget_starts_and_is_cut_at_the_cap(cluster: MeteringCluster) -> None:
    call = await cluster.open(cluster.gateway(), CALLER, ONE, prompt=10, max_tokens=1000, stream=True)
    assert await spent(cluster) == (0, 100 * TOKEN)
    for _ in range(90):
        await report(call.metered, token())
    with pytest.raises(InsufficientQuota, match="cut after 90 tokens") as caught:
        await report(call.metered, token())
    await call.metered.finalize(caught.value)
    assert await spent(cluster) == (100 * TOKEN, 0)
    (row,) = await rows(cluster)
    assert (row["completion_tokens"], row["outcome"], row["counted_by"]) == (90, "cut", "chunks")


async def test_every_choice_is_reserved_counted_and_cut(cluster: MeteringCluster) -> None:
    with pytest.raises(InsufficientQuota):
        await cluster.open(cluster.gateway(), CALLER, ONE, prompt=10, max_tokens=40, stream=False, choices=4)
    call = await cluster.open(cluster.gateway(), CALLER, ONE, prompt=9, max_tokens=40, stream=True, choices=4)
    for _ in range(91):
        await report(call.metered, call.next_token())
        call.delivered += 1
    with pytest.raises(InsufficientQuota, match="cut after 91 tokens") as caught:
        await report(call.metered, call.next_token())
    await call.metered.finalize(caught.value)
    assert await spent(cluster) == (100 * TOKEN, 0)
    assert [row["completion_tokens"] for row in await rows(cluster)] == [91]


async def test_an_engine_that_exceeds_max_tokens_is_cut(cluster: MeteringCluster) -> None:
    call = await cluster.open(cluster.gateway(), CALLER, ONE, prompt=10, max_tokens=2, stream=True)
    await report(call.metered, token())
    await report(call.metered, token())
    with pytest.raises(EngineOvershot, match="more than the 2 tokens"):
        await report(call.metered, token())


async def test_usage_beyond_the_reservation_is_not_charged(cluster: MeteringCluster) -> None:
    call = await cluster.open(cluster.gateway(), CALLER, ONE, prompt=10, max_tokens=5, stream=False)
    await report(call.metered, usage(20, 5))
    await call.metered.finalize()
    (row,) = await rows(cluster)
    assert (row["cost"], row["excess"], row["prompt_tokens"]) == (15 * TOKEN, 10 * TOKEN, 20)
    assert await spent(cluster) == (15 * TOKEN, 0)


@pytest.mark.parametrize(
    ("chunks", "charged", "counted_by"),
    [
        ([token(), token(), usage(9, 40)], (9, 40), "engine"),
        ([token(), {**token(), "usage": {"prompt_tokens": 9, "completion_tokens": 7}}], (9, 7), "chunk_usage"),
        ([{**token(), "timings": {"prompt_n": 2, "cache_n": 7, "predicted_n": 5}}], (9, 5), "chunk_usage"),
        ([token(), token(), token()], (10, 3), "chunks"),
    ],
)
async def test_a_disconnected_call_is_charged_by_the_most_precise_count(
    cluster: MeteringCluster, chunks: list[JsonObject], charged: tuple[int, int], counted_by: str
) -> None:
    call = await cluster.open(cluster.gateway(), CALLER, ONE, prompt=10, max_tokens=60, stream=True)
    for chunk in chunks:
        await report(call.metered, chunk)
    await call.metered.finalize(ClientDisconnected())
    (row,) = await rows(cluster)
    assert (row["prompt_tokens"], row["completion_tokens"], row["counted_by"]) == (*charged, counted_by)
    assert await spent(cluster) == (sum(charged) * TOKEN, 0)


async def test_an_engine_that_dies_before_its_first_token_costs_nothing(cluster: MeteringCluster) -> None:
    call = await cluster.open(cluster.gateway(), CALLER, ONE, prompt=10, max_tokens=60, stream=True)
    await call.metered.finalize(CountersUnavailable("the engine died"))
    assert await spent(cluster) == (0, 0)
    assert [(row["cost"], row["outcome"], row["counted_by"]) for row in await rows(cluster)] == [
        (0, "failed", "nothing")
    ]


async def test_each_attempt_is_charged_at_its_own_price(cluster: MeteringCluster) -> None:
    gateway = cluster.gateway()
    with acting_for(CALLER):
        metered = await gateway.metering.reserve(model_request((ONE, TWO), prompt=5, max_tokens=10, stream=True))
    assert await spent(cluster) == (0, 50 * TOKEN)  # at the dearest: 5 * 2 + 10 * 4
    await metered.begin(ONE)
    for _ in range(4):
        await report(metered, token())
    await metered.begin(TWO)  # needs more than the remainder of 50
    assert await spent(cluster) == (0, 59 * TOKEN)
    await report(metered, token())
    await report(metered, usage(5, 10))
    await metered.finalize()
    assert await spent(cluster) == (59 * TOKEN, 0)
    assert [(row["model"], row["cost"] // TOKEN) for row in await rows(cluster)] == [("one", 9), ("two", 50)]
    results = await cluster.counters.peek([Subject(Block.MODEL, "", "one"), Subject(Block.MODEL, "", "two")])
    assert [(values["tn"], values["n"]) for values in results] == [(9 * TOKEN, 0), (50 * TOKEN, 0)]


async def test_a_fallback_that_was_never_called_is_not_charged(cluster: MeteringCluster) -> None:
    with acting_for(CALLER):
        metered = await cluster.gateway().metering.reserve(
            model_request((ONE, TWO), prompt=10, max_tokens=1000, stream=True)
        )
    await metered.begin(ONE)
    for _ in range(80):
        await report(metered, token())
    with pytest.raises(InsufficientQuota, match="the desk 'rates' has 0.00 USD left") as caught:
        await metered.begin(TWO)
    await metered.finalize(caught.value)
    assert [(row["model"], row["cost"] // TOKEN, row["counted_by"]) for row in await rows(cluster)] == [
        ("one", 90, "chunks"),
        ("two", 0, "nothing"),
    ]
    assert await spent(cluster) == (90 * TOKEN, 0)


async def test_a_fallback_whose_attempt_was_not_written_ahead_is_not_charged(
    cluster: MeteringCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = cluster.gateway()
    with acting_for(CALLER):
        metered = await gateway.metering.reserve(model_request((ONE, TWO), prompt=5, max_tokens=5, stream=True))
    await metered.begin(ONE)
    await report(metered, token())

    async def unavailable(*args: object) -> None:
        raise CountersUnavailable("Valkey went away")

    monkeypatch.setattr(gateway.counters, "advance", unavailable)
    with pytest.raises(CountersUnavailable) as caught:
        await metered.begin(TWO)
    await metered.finalize(caught.value)
    assert [(row["model"], row["cost"] // TOKEN) for row in await rows(cluster)] == [("one", 6), ("two", 0)]


async def test_an_answer_repeated_by_another_engine_is_charged_once(cluster: MeteringCluster) -> None:
    with acting_for(CALLER):
        metered = await cluster.gateway().metering.reserve(
            model_request((ONE, TWO), prompt=5, max_tokens=5, stream=False)
        )
    await metered.begin(ONE)
    await report(metered, token())
    await metered.begin(TWO)  # nothing of the first attempt was delivered
    await report(metered, usage(5, 5))
    await metered.finalize()
    assert [(row["model"], row["cost"] // TOKEN) for row in await rows(cluster)] == [("one", 0), ("two", 30)]


@pytest.fixture
async def one_call_at_model_two(cluster: MeteringCluster) -> MeteringCluster:
    """The model `two` is limited to one concurrent call."""
    cluster.caps = [(Subject(Block.MODEL, "", "two"), "Cc", 1)]
    await cluster.push_caps()
    return cluster


async def concurrent_calls_and_cost(cluster: MeteringCluster) -> list[tuple[int, int]]:
    results = await cluster.counters.peek([Subject(Block.MODEL, "", name) for name in ("one", "two")])
    return [(values["c"], values["n"] // TOKEN) for values in results]


async def test_a_full_fallback_does_not_deny_calls_that_do_not_use_it(one_call_at_model_two: MeteringCluster) -> None:
    cluster, gateway = one_call_at_model_two, one_call_at_model_two.gateway()
    calls = []
    for _ in range(3):
        with acting_for(CALLER):
            calls.append(await gateway.metering.reserve(model_request((ONE, TWO), prompt=5, max_tokens=5, stream=True)))
        await calls[-1].begin(ONE)
    assert await concurrent_calls_and_cost(cluster) == [(3, 90), (0, 0)]
    await calls[0].begin(TWO)
    assert await concurrent_calls_and_cost(cluster) == [(3, 90), (1, 30)]  # the same amount as the call
    with pytest.raises(ModelAtCapacity, match="the model 'two' has 1 calls in progress"):
        await calls[1].begin(TWO)
    await calls[1].begin(ONE)  # another model is available
    await report(calls[0], usage(5, 1))
    await calls[0].finalize()
    await calls[2].begin(TWO)
    for metered in calls[1:]:
        await metered.finalize(ClientDisconnected())
    assert await concurrent_calls_and_cost(cluster) == [(0, 0), (0, 0)]


async def test_a_full_model_passes_the_call_to_the_next_candidate(one_call_at_model_two: MeteringCluster) -> None:
    cluster, gateway = one_call_at_model_two, one_call_at_model_two.gateway()
    first = await cluster.open(gateway, CALLER, TWO, prompt=1, max_tokens=1, stream=False)
    with acting_for(CALLER):
        metered = await gateway.metering.reserve(model_request((TWO, ONE), prompt=1, max_tokens=1, stream=False))
    with pytest.raises(ModelAtCapacity):
        await metered.begin(TWO)
    await metered.begin(ONE)
    await report(metered, usage(1, 1))
    await metered.finalize()
    assert [(row["model"], row["cost"] // TOKEN) for row in await rows(cluster)] == [("one", 2)]
    with acting_for(CALLER), pytest.raises(ModelAtCapacity):
        await gateway.metering.reserve(model_request((TWO,), prompt=1, max_tokens=1, stream=False))
    await first.metered.finalize(ClientDisconnected())


async def test_the_reaper_releases_models_added_to_a_reservation(one_call_at_model_two: MeteringCluster) -> None:
    cluster = one_call_at_model_two
    with acting_for(CALLER):
        metered = await cluster.gateway().metering.reserve(
            model_request((ONE, TWO), prompt=5, max_tokens=5, stream=True)
        )
    await metered.begin(ONE)
    await report(metered, token())
    await metered.begin(TWO)
    cluster.ms += LEASE * 1000 + 2000
    await cluster.tick()
    assert [(row["model"], row["cost"] // TOKEN) for row in await rows(cluster)] == [("one", 6), ("two", 10)]
    assert await concurrent_calls_and_cost(cluster) == [(0, 0), (0, 0)]


@pytest.mark.parametrize("invalid_count", [-1000, 10**29, 1 << 31, True, 1.5, "7"])
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens"])
async def test_an_invalid_token_count_is_a_truncated_response(
    cluster: MeteringCluster, name: str, invalid_count: float | str
) -> None:
    call = await cluster.open(cluster.gateway(), CALLER, ONE, prompt=10, max_tokens=60, stream=True)
    await report(call.metered, token())
    with pytest.raises(ResponseTruncated, match=name) as caught:
        await report(call.metered, {"choices": [], "usage": {name: invalid_count}})
    await call.metered.finalize(caught.value)
    assert await spent(cluster) == (11 * TOKEN, 0)


async def test_a_final_count_before_the_content_is_ignored(cluster: MeteringCluster) -> None:
    early = await cluster.open(cluster.gateway(), CALLER, ONE, prompt=10, max_tokens=20, stream=True)
    for chunk in (usage(10, 0), token(), token()):
        await report(early.metered, chunk)
    await early.metered.finalize(ClientDisconnected())
    assert await spent(cluster) == (12 * TOKEN, 0)
    late = await cluster.open(cluster.gateway(), CALLER, ONE, prompt=10, max_tokens=20, stream=True)
    for chunk in (token(), token(), usage(10, 0)):
        await report(late.metered, chunk)
    await late.metered.finalize(ClientDisconnected())  # the engine counts less than it generated
    assert await spent(cluster) == (24 * TOKEN, 0)


async def test_tokens_beyond_the_reservation_are_not_charged(cluster: MeteringCluster) -> None:
    call = await cluster.open(cluster.gateway(), CALLER, ONE, prompt=10, max_tokens=5, stream=False)
    await report(call.metered, usage(10, 1500))
    await call.metered.finalize()
    assert [(row["completion_tokens"], row["excess_tokens"]) for row in await rows(cluster)] == [(1500, 1495)]
    (results,) = await cluster.counters.peek([KEY])
    assert (results["tt"], results["dt"], results["t"]) == (15, 15, 0)
    await cluster.redis.flushdb()
    cluster.ms += LEASE * 1000
    assert await cluster.rebuild.tick()
    assert [values["tt"] for values in await cluster.counters.peek([KEY])] == [15]


async def test_late_usage_of_a_settled_call_is_not_charged(cluster: MeteringCluster) -> None:
    call = await cluster.open(cluster.gateway(), CALLER, ONE, prompt=10, max_tokens=60, stream=True)
    await report(call.metered, token())
    cluster.ms += LEASE * 1000 + 2000
    await cluster.tick()
    await report(call.metered, usage(10, 500))
    await call.metered.finalize(ReservationLost("lost"))
    await cluster.tick()
    results = [(row["completion_tokens"], row["excess_tokens"]) for row in await rows(cluster)]
    assert results == [(BLOCK, 0), (500 - BLOCK, 440 + 60 - BLOCK)]
    assert [values["tt"] for values in await cluster.counters.peek([KEY])] == [10 + BLOCK]


async def test_a_tool_call_that_the_engine_buffers_is_cut_too(cluster: MeteringCluster) -> None:
    call = await cluster.open(cluster.gateway(), CALLER, ONE, prompt=10, max_tokens=5, stream=False)

    def tool_call_chunk(count: int, **choice: Json) -> JsonObject:
        return {"choices": [{"index": 0, "delta": {}, **choice}], "timings": {"predicted_n": count}}

    await report(call.metered, tool_call_chunk(5))
    with pytest.raises(EngineOvershot):
        await report(call.metered, tool_call_chunk(6))
    await report(call.metered, tool_call_chunk(6, finish_reason="tool_calls"))  # complete: not cut any more


async def test_an_unbounded_answer_is_limited_to_the_reservation(cluster: MeteringCluster) -> None:
    cluster.caps = []
    await cluster.push_caps()
    gateway, request = cluster.gateway(max_tokens=30), model_request((ONE,), prompt=10, max_tokens=None, stream=False)
    with acting_for(CALLER):
        metered = await gateway.metering.reserve(request)
    assert await metered.begin(ONE) == {"max_tokens": 30}
    bounded = replace(ONE, context_length=50)
    with acting_for(CALLER):
        metered = await gateway.metering.reserve(replace(request, models=(bounded,)))
    assert await metered.begin(bounded) == {}  # the context length is the reservation


def test_an_image_in_a_prompt_is_not_estimated_as_text() -> None:
    def prompt(url: str) -> int:
        parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
        return prompt_token_bound({"messages": [{"role": "user", "content": parts}]}, 4096)

    assert prompt("data:image/png;base64," + "A" * 1_400_000) == prompt("") < 4096 + 300
    assert prompt("https://desk.example/x.png") == prompt("") + len("https://desk.example/x.png")
