"""Units of failover: continuation, load balancing, circuit breakers, retry budget, error mapping."""

from __future__ import annotations

import time
from collections import Counter
from email.utils import formatdate
from pathlib import Path
from random import Random
from typing import Any, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drw.api.models.v1 import discovery_pb2
from drw.api.models.v1.discovery_pb2 import Model, Plan, ResolvedModel, ResolvePlanRequest
from drw.kernel.errors import DrwError, InvalidRequest, RateLimited, Unavailable
from drw.kernel.runtime.clock import Clock
from drw.killswitch.watch import KillList
from drw.models.serving.adapters.openai import OpenAiEngine
from drw.models.serving.engines.upstream_errors import stream_error, upstream_error
from drw.models.serving.errors import (
    ContentFiltered,
    ContextLengthExceeded,
    EngineLimited,
    EngineUnavailable,
    UpstreamModelNotFound,
    UpstreamQuotaExhausted,
)
from drw.models.serving.failover.continuation import ECHO_CHARACTERS, Continuation, continuation_request, may_continue
from drw.models.serving.failover.failure_policy import classify
from drw.models.serving.failover.retries import RetryBudget
from drw.models.serving.openai.chunks import has_token, is_complete, is_filtered
from drw.models.serving.openai.responses import Answer
from drw.models.serving.ports import EngineTarget
from drw.models.serving.routing.admission_queue import AdmissionQueue
from drw.models.serving.routing.circuit_breaker import CircuitBreaker, State
from drw.models.serving.routing.load_balancing import (
    LOAD_BOUND,
    Affinity,
    Replica,
    choose_replica,
    weighted_order,
)
from drw.models.serving.routing.model_directory import ModelDirectory
from drw.models.serving.settings import CircuitSettings, ClientSettings, RetrySettings
from support.json_types import Json, JsonObject

TARGET = EngineTarget("m", "http://h/v1", "up", "")


class ManualClock(Clock):
    """A clock that the test advances."""

    now = 100.0

    def time(self) -> float:
        return self.now


def continue_text(so_far: str, pieces: list[str]) -> str:
    continuation = Continuation(so_far)
    return so_far + "".join(continuation.feed(piece) for piece in pieces) + continuation.flush()


@given(st.text("ab \n", max_size=40), st.lists(st.text("ab \n", max_size=8), max_size=12))
def test_a_continuation_removes_only_repeated_text_and_white_space(so_far: str, pieces: list[str]) -> None:
    rest = "".join(pieces)
    stripped = so_far.rstrip()
    result = continue_text(so_far, pieces)
    if len(stripped) >= ECHO_CHARACTERS and rest.startswith(stripped):
        rest = rest[len(stripped) :]
    space, same = so_far[len(stripped) :], 0
    while same < min(len(space), len(rest)) and space[same] == rest[same]:
        same += 1
    assert result == so_far + rest[same:]


@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=20), st.integers(0, 20), st.booleans())
def test_a_continuation_completes_the_text_with_and_without_an_echo(tokens: list[str], cut: int, echoes: bool) -> None:
    so_far, text = "".join(tokens[:cut]), "".join(tokens)
    stripped = so_far.rstrip()
    rest = text[len(stripped) :]
    if rest.startswith(stripped) and len(stripped) >= ECHO_CHARACTERS:
        return  # a text that says the same twice cannot be told from an echo
    if echoes and len(stripped) < ECHO_CHARACTERS:
        return
    assert continue_text(so_far, list(stripped * echoes + rest)) == text


def test_short_repetitions_are_not_removed_as_an_echo() -> None:
    assert continue_text("The limit is 100", ["00", "0 USD"]) == "The limit is 10000" + "0 USD"
    assert continue_text("no, no,", [" no, no,", " no."]) == "no, no, no, no, no."


@pytest.mark.parametrize(
    ("how", "last", "more"),
    [
        ("assistant", {"role": "assistant", "content": "So"}, {}),
        ("prefix", {"role": "assistant", "content": "So", "prefix": True}, {}),
        (
            "continue_final_message",
            {"role": "assistant", "content": "So"},
            {"continue_final_message": True, "add_generation_prompt": False},
        ),
    ],
)
def test_a_continuation_request_for_each_prefill_mode(how: str, last: JsonObject, more: dict[str, bool]) -> None:
    body: JsonObject = {"messages": [{"role": "user", "content": "?"}], "max_tokens": 10}
    sent = continuation_request("chat/completions", body, "So \n", 4, how)
    assert sent == {"messages": [*body["messages"], last], "max_tokens": 6, **more}
    assert body["max_tokens"] == 10
    assert continuation_request("chat/completions", body, "So", 10, how) is None
    assert continuation_request("completions", {"prompt": "1, 2,"}, " 3,", 2, how) == {"prompt": "1, 2, 3,"}
    assert continuation_request("chat/completions", body, " \n", 1, how) == body | {"max_tokens": 9}


def test_a_partial_assistant_message_of_the_caller_is_continued() -> None:
    body = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "One, "}]}
    sent = continuation_request("chat/completions", body, "two", 1, "assistant")
    assert sent is not None
    assert sent["messages"][1:] == [{"role": "assistant", "content": "One, two"}]


@pytest.mark.parametrize(
    ("more", "may"),
    [
        ({}, True),
        ({"tools": [{}]}, False),
        ({"tools": [{}], "tool_choice": "none"}, True),
        ({"logprobs": True}, False),
        ({"response_format": {"type": "text"}}, True),
        ({"response_format": {"type": "json_object"}}, False),
    ],
)
def test_only_plain_text_answers_can_be_continued(more: JsonObject, may: bool) -> None:
    answer = Answer("chat/completions", "m", 1)
    answer.add({"choices": [{"delta": {"content": "So"}}]})
    assert may_continue("chat/completions", more, answer) is may
    for name in ("reasoning_content", "reasoning"):
        thinking = Answer("chat/completions", "m", 1)
        thinking.add({"choices": [{"delta": {"content": "So", name: "hm"}}]})
        assert not may_continue("chat/completions", {}, thinking)
        assert thinking.messages()[0][name] == "hm"
    assert not may_continue("chat/completions", {}, Answer("chat/completions", "m", 2))


def replicas(count: int, settings: CircuitSettings | None = None, clock: Clock | None = None) -> list[Replica]:
    made = [(f"http://10.0.0.{i}:8000/v1", f"r{i}") for i in range(count)]
    return [
        Replica(
            name,
            EngineTarget("m", url, "m", ""),
            CircuitBreaker(settings or CircuitSettings(), clock or ManualClock(), "m", name),
        )
        for url, name in made
    ]


def test_the_least_busy_replica_receives_the_request() -> None:
    pool = replicas(4)
    for _ in range(400):
        choose_replica(pool, "", Random(1)).outstanding += 1
    assert [replica.outstanding for replica in pool] == [100] * 4


def test_a_key_stays_at_one_replica_and_keys_spread() -> None:
    pool = replicas(5)
    first = {f"s{i}": choose_replica(pool, f"s{i}", Random(1)).name for i in range(1000)}
    assert first == {key: choose_replica(pool, key, Random(2)).name for key in first}
    assert min(Counter(first.values()).values()) > 150
    gone = pool[2].name
    moved = {
        key for key in first if choose_replica([p for p in pool if p.name != gone], key, Random(1)).name != first[key]
    }
    assert moved == {key for key, name in first.items() if name == gone}  # only keys of the removed replica


@given(st.lists(st.sampled_from(["hot", "a", "b", "c"]), max_size=200), st.integers(2, 6))
def test_replicas_stay_within_the_load_bound_with_hot_keys(keys: list[str], count: int) -> None:
    pool = replicas(count)
    for number, key in enumerate(keys, 1):
        choose_replica(pool, key, Random(1)).outstanding += 1
        assert max(replica.outstanding for replica in pool) <= -(-LOAD_BOUND * number // count)


def test_weighted_order_respects_weights_and_moves_few_keys() -> None:
    keys = [f"acme/key_{i}/" for i in range(4000)]
    before = {key: weighted_order([("a", 90), ("b", 10), ("c", 0)], key) for key in keys}
    share = Counter(order[0] for order in before.values())
    assert 0.07 < share["b"] / len(keys) < 0.13
    assert share["c"] == 0
    assert {order[-1] for order in before.values()} == {"c"}
    after = {key: weighted_order([("a", 80), ("b", 20), ("c", 0)], key) for key in keys}
    assert all(after[key][0] == "b" for key in keys if before[key][0] == "b")  # no key moves back


def test_the_affinity_key_is_the_session_or_prompt_prefix_of_an_owner() -> None:
    body = {"messages": [{"role": "system", "content": "x" * 5000}, {"role": "user", "content": "a"}]}
    other = {"messages": [{"role": "system", "content": "x" * 5000}, {"role": "user", "content": "b"}]}
    assert Affinity("acme/k", "", body).key("prefix") == Affinity("acme/k", "", other).key("prefix")
    assert Affinity("acme/k", "", body).key("prefix") != Affinity("rival/k", "", body).key("prefix")
    assert Affinity("acme/k", "s", body).key("session") == Affinity("acme/k", "s", other).key("prefix")
    assert Affinity("acme/k", "", body).key("session") == Affinity("acme/k", "s", body).key("none") == ""
    assert Affinity("acme/k", "", {"prompt": "abc"}).key("prefix") == "acme/k/abc"
    assert Affinity("acme/k", "", {"prompt": ["abc", "x"]}).key("prefix") == "acme/k/abc"
    tokens = [Affinity("acme/k", "", {"prompt": ids}).key("prefix") for ids in ([1, 2], [1, 3], [[1, 3], [4]])]
    assert tokens[0] != tokens[1] == tokens[2]


def test_a_circuit_opens_probes_once_and_closes_after_the_first_token() -> None:
    clock = ManualClock()
    circuit = CircuitBreaker(CircuitSettings(), clock, "m", "test")
    for _ in range(4):
        circuit.failed(circuit.enter())
    circuit.succeeded(circuit.enter())
    for _ in range(5):
        assert circuit.state is State.CLOSED
        circuit.failed(circuit.enter())
    assert (circuit.state, circuit.ready_at) == (State.OPEN, clock.now + 2)
    clock.now += 2
    probe = circuit.enter()
    assert (circuit.state, circuit.ready_at) == (
        State.HALF_OPEN,
        float("inf"),
    )  # nobody else while the probe is under way
    circuit.first_token(probe)
    assert circuit.state is State.CLOSED
    circuit.failed(probe)  # on trial: once is enough
    assert (circuit.state, circuit.ready_at) == (State.OPEN, clock.now + 4)
    clock.now += 4
    circuit.abandoned(circuit.enter())
    assert (circuit.state, circuit.ready_at <= clock.now) == (State.OPEN, True)  # the next one probes
    probe = circuit.enter()
    circuit.first_token(probe)
    circuit.succeeded(probe)
    for _ in range(4):
        circuit.failed(circuit.enter())
    assert circuit.state is State.CLOSED


def test_outcomes_from_before_the_circuit_opened_are_ignored() -> None:
    clock = ManualClock()
    circuit = CircuitBreaker(CircuitSettings(consecutive_failures=1), clock, "m", "test")
    old = circuit.enter()
    circuit.failed(circuit.enter())
    clock.now += 2
    probe = circuit.enter()
    for report in (circuit.abandoned, circuit.first_token, circuit.succeeded, circuit.failed):
        report(old)
        assert circuit.state is State.HALF_OPEN
    circuit.abandoned(probe)
    probe, left = circuit.enter(), probe
    circuit.failed(left)
    assert circuit.state is State.HALF_OPEN
    circuit.failed(probe)
    assert (circuit.state, circuit.ready_at) == (State.OPEN, clock.now + 4)  # doubled once


def test_the_open_time_of_a_circuit_doubles_up_to_its_maximum() -> None:
    clock = ManualClock()
    circuit = CircuitBreaker(CircuitSettings(consecutive_failures=1), clock, "m", "test")
    waits = []
    for _ in range(8):
        circuit.failed(circuit.enter())
        waits.append(circuit.ready_at - clock.now)
        clock.now = circuit.ready_at
    assert waits[:4] == [2, 4, 8, 16]
    assert set(waits[4:]) == {20}


def test_a_failure_rate_of_one_half_opens_the_circuit() -> None:
    circuit = CircuitBreaker(CircuitSettings(window=10), ManualClock(), "m", "test")
    for number in range(10):
        assert circuit.state is State.CLOSED
        if number % 2:
            circuit.failed(circuit.enter())
        else:
            circuit.succeeded(circuit.enter())
    assert circuit.state is State.OPEN


def test_the_retry_budget_is_a_share_of_requests_plus_a_floor() -> None:
    clock = ManualClock()
    retries = RetryBudget(RetrySettings(budget_ratio=0.25, budget_floor=1), clock, Random(1))
    assert sum(retries.spend() for _ in range(100)) == 10  # the floor's ten seconds
    for _ in range(40):
        retries.add_request()
    assert sum(retries.spend() for _ in range(100)) == 10
    clock.now += 3
    assert sum(retries.spend() for _ in range(100)) == 3


def test_backoff_doubles_with_jitter_up_to_its_maximum() -> None:
    retries = RetryBudget(RetrySettings(first_wait_seconds=0.1, max_wait_seconds=3), ManualClock(), Random(1))
    for attempts in range(1, 10):
        longest = min(0.1 * 2 ** (attempts - 1), 3)
        waits = [retries.backoff(attempts) for _ in range(50)]
        assert longest / 2 <= min(waits) < max(waits) <= longest
        assert len(set(waits)) > 40


@pytest.mark.parametrize(
    ("reason", "whole", "filtered"),
    [
        *((reason, True, False) for reason in ("stop", "length", "tool_calls", "function_call", "eos_token", "STOP")),
        *((reason, True, True) for reason in ("content_filter", "content_filter: SAFETY", "RECITATION")),
        *((reason, False, False) for reason in ("abort", "error", "repetition", "insufficient_system_resource", "?")),
    ],
)
def test_finish_reasons_are_complete_filtered_or_neither(reason: str, whole: bool, filtered: bool) -> None:
    assert (is_complete(reason), is_filtered(reason)) == (whole, filtered)


@pytest.mark.parametrize("name", ["content", "reasoning_content", "reasoning", "refusal"])
def test_every_text_field_counts_as_a_token(name: str) -> None:
    assert has_token({"choices": [{"delta": {name: "hm"}, "finish_reason": None}]})
    assert not has_token({"choices": [{"delta": {"role": "assistant", name: ""}, "finish_reason": None}]})


def body(**error: Json) -> bytes:
    return orjson.dumps({"error": error})


@pytest.mark.parametrize(
    ("status", "raw", "cls"),
    [
        (400, body(message="m", code="context_length_exceeded"), ContextLengthExceeded),
        (400, body(message="This model's maximum context length is 8 tokens", code=400), ContextLengthExceeded),
        (400, body(message="m", code="content_filter"), ContentFiltered),
        (500, body(message="m", innererror={"code": "ResponsibleAIPolicyViolation"}), ContentFiltered),
        (400, body(message="m", type="invalid_request_error", code=None), InvalidRequest),
        (429, body(message="m", code="rate_limit_exceeded"), EngineLimited),
        (429, body(message="m", code="insufficient_quota"), UpstreamQuotaExhausted),
        (402, body(message="Insufficient Balance"), UpstreamQuotaExhausted),
        (404, body(message="m", code="model_not_found"), UpstreamModelNotFound),
        (502, b"<html>", EngineUnavailable),
        (400, body(message="m", type="exceed_context_size_error", n_prompt_tokens=9, n_ctx=8), ContextLengthExceeded),
        (400, body(message="m", type="exceed_context_size_error"), ContextLengthExceeded),
        (400, b'{"object": "error", "message": "maximum context length is 8", "code": 400}', ContextLengthExceeded),
        (400, b'{"detail": "maximum context length is 8"}', ContextLengthExceeded),
        (422, b'{"detail": [{"loc": ["body"], "msg": "maximum context length is 8"}]}', ContextLengthExceeded),
        (400, b'{"detail": []}', InvalidRequest),
        (400, b"7", InvalidRequest),
    ],
)
def test_upstream_errors_are_mapped_by_status_code_and_message(status: int, raw: bytes, cls: type[DrwError]) -> None:
    assert type(upstream_error(TARGET, status, raw)) is cls


def test_an_error_event_is_mapped_by_its_code() -> None:
    assert type(stream_error(TARGET, {"message": "m", "code": "content_filter"})) is ContentFiltered
    assert type(stream_error(TARGET, {"message": "m", "code": "rate_limit_exceeded"})) is EngineLimited
    assert type(stream_error(TARGET, {"message": "m", "code": 503})) is EngineUnavailable
    assert type(stream_error(TARGET, "it broke")) is EngineUnavailable
    assert classify(stream_error(TARGET, "it broke")).blames_upstream


@pytest.mark.parametrize("error", [RateLimited("the caller's own limit"), Unavailable("a part of ours")])
def test_errors_that_are_not_of_the_engine_are_final(error: DrwError) -> None:
    assert classify(error) == ("refused", False, False, False)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("7", "7"), ("0.5", "1"), ("soon", None), ("nan", "3600"), ("99999", "3600"), ("-3", "0"), (None, None)],
)
def test_retry_after_is_converted_to_whole_seconds(given: str | None, seconds: str | None) -> None:
    assert upstream_error(TARGET, 429, b"", given).metadata.get("retry_after") == seconds


def test_retry_after_can_be_a_date() -> None:
    after = upstream_error(TARGET, 503, b"", formatdate(time.time() + 90, usegmt=True)).metadata["retry_after"]
    assert 0 < int(after) <= 91


class DoubleDiscovery:
    """Double of discovery with one model; can be down."""

    is_down = False
    request_count = 0

    async def resolve_plan(self, request: ResolvePlanRequest, timeout: float) -> Plan:
        self.request_count += 1
        if self.is_down:
            raise Unavailable("gone")
        model = ResolvedModel(
            model=Model(id="m", kind=Model.CHAT, engine="openai"),
            base_urls=["http://h/v1"],
            permit=discovery_pb2.Permit(validation="settings"),
        )
        return discovery_pb2.Plan(id=request.id, targets=[discovery_pb2.Target(model=model, weight=1)])


async def test_candidates_are_cached_and_used_while_discovery_is_down(tmp_path: Path) -> None:
    clock, discovery = ManualClock(), DoubleDiscovery()
    queue = lambda model, most: AdmissionQueue(model, 1, 1, 1)  # noqa: E731
    models = ModelDirectory(
        cast(Any, discovery),
        lambda name: OpenAiEngine(ClientSettings()),
        queue,
        CircuitSettings(),
        clock,
        5,
        KillList(cast(Any, None), tmp_path / "kills"),
    )
    first = await models.plan("a")
    clock.now += 4
    assert await models.plan("a") is first
    assert discovery.request_count == 1
    clock.now += 2
    again = await models.plan("a")
    assert discovery.request_count == 2
    assert again.targets[0][0] is first.targets[0][0]  # with its queue and circuits
    discovery.is_down = True
    clock.now += 60
    assert await models.plan("a") is again
    with pytest.raises(Unavailable):
        await models.plan("b")
