"""The parts of failover by themselves: seams, spreading, circuits, the budget of retries, what errors mean."""

from __future__ import annotations

import time
from collections import Counter
from email.utils import formatdate
from pathlib import Path
from random import Random
from typing import Any, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drw.api.models.v1 import discovery_pb2
from drw.api.models.v1.discovery_pb2 import Model, ResolvedModel
from drw.kernel.errors import InvalidRequest, RateLimited, Unavailable
from drw.kernel.runtime.clock import Clock
from drw.killswitch.watch import KillList
from drw.models.serving.engines.upstream_errors import in_band, refusal
from drw.models.serving.errors import (
    ContentFiltered,
    ContextLengthExceeded,
    EngineLimited,
    EngineUnavailable,
    UpstreamModelNotFound,
    UpstreamQuotaExhausted,
)
from drw.models.serving.failover.continuation import ECHO_CHARACTERS, Continuation, continued, may_continue
from drw.models.serving.failover.failure_policy import cause
from drw.models.serving.failover.retries import RetryBudget
from drw.models.serving.openai.chunks import has_token, is_filtered, is_whole
from drw.models.serving.openai.responses import Answer
from drw.models.serving.ports import EngineTarget
from drw.models.serving.routing.admission_queue import AdmissionQueue
from drw.models.serving.routing.circuit_breaker import CircuitBreaker, State
from drw.models.serving.routing.load_balancing import LOAD_BOUND, Affinity, Replica, by_weight, pick
from drw.models.serving.routing.model_directory import ModelDirectory
from drw.models.serving.settings import CircuitSettings, RetrySettings

TARGET = EngineTarget("m", "http://h/v1", "up", "")


class HandClock(Clock):
    """Stands still until it is moved."""

    now = 100.0

    def time(self) -> float:
        return self.now


def joined(so_far: str, pieces: list[str]) -> str:
    seam = Continuation(so_far)
    return so_far + "".join(seam.take(piece) for piece in pieces) + seam.rest()


@settings(deadline=None)
@given(st.text("ab \n", max_size=40), st.lists(st.text("ab \n", max_size=8), max_size=12))
def test_a_seam_takes_out_an_echo_and_white_space_and_nothing_else(so_far: Any, pieces: Any) -> None:
    rest = "".join(pieces)
    begun = so_far.rstrip()
    said = joined(so_far, pieces)
    if len(begun) >= ECHO_CHARACTERS and rest.startswith(begun):
        rest = rest[len(begun) :]
    space, same = so_far[len(begun) :], 0
    while same < min(len(space), len(rest)) and space[same] == rest[same]:
        same += 1
    assert said == so_far + rest[same:]


@settings(deadline=None)
@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=20), st.integers(0, 20), st.booleans())
def test_an_engine_that_goes_on_makes_the_text_whole_whether_it_echoes_or_not(
    tokens: Any, cut: Any, echoes: Any
) -> None:
    so_far, text = "".join(tokens[:cut]), "".join(tokens)
    begun = so_far.rstrip()
    rest = text[len(begun) :]
    if rest.startswith(begun) and len(begun) >= ECHO_CHARACTERS:
        return  # a text that says the same twice cannot be told from an echo
    if echoes and len(begun) < ECHO_CHARACTERS:
        return
    assert joined(so_far, list(begun * echoes + rest)) == text


def test_figures_at_a_seam_are_never_taken_for_an_echo() -> None:
    assert joined("The limit is 100", ["00", "0 USD"]) == "The limit is 10000" + "0 USD"
    assert joined("no, no,", [" no, no,", " no."]) == "no, no, no, no, no."


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
def test_a_continuation_in_each_engines_words(how: str, last: Any, more: Any) -> None:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "?"}], "max_tokens": 10}
    sent = continued("chat/completions", body, "So \n", 4, how)
    assert sent == {"messages": [*body["messages"], last], "max_tokens": 6, **more}
    assert body["max_tokens"] == 10
    assert continued("chat/completions", body, "So", 10, how) is None
    assert continued("completions", {"prompt": "1, 2,"}, " 3,", 2, how) == {"prompt": "1, 2, 3,"}
    assert continued("chat/completions", body, " \n", 1, how) == body | {"max_tokens": 9}


def test_a_callers_own_beginning_is_gone_on_with() -> None:
    body = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "One, "}]}
    sent = continued("chat/completions", body, "two", 1, "assistant")
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
def test_what_cannot_be_gone_on_with(more: Any, may: bool) -> None:
    answer = Answer("chat/completions", "m", 1)
    answer.add({"choices": [{"delta": {"content": "So"}}]})
    assert may_continue("chat/completions", more, answer) is may
    for name in ("reasoning_content", "reasoning"):
        thinking = Answer("chat/completions", "m", 1)
        thinking.add({"choices": [{"delta": {"content": "So", name: "hm"}}]})
        assert not may_continue("chat/completions", {}, thinking)
        assert thinking.messages()[0][name] == "hm"
    assert not may_continue("chat/completions", {}, Answer("chat/completions", "m", 2))


def replicas(count, settings=None, clock=None):
    made = [(f"http://10.0.0.{i}:8000/v1", f"r{i}") for i in range(count)]
    return [
        Replica(
            name,
            EngineTarget("m", url, "m", ""),
            CircuitBreaker(settings or CircuitSettings(), clock or HandClock(), "m", name),
        )
        for url, name in made
    ]


def test_the_least_busy_place_takes_a_request() -> None:
    places = replicas(4)
    for _ in range(400):
        pick(places, "", Random(1)).outstanding += 1
    assert [place.outstanding for place in places] == [100] * 4


def test_one_key_stays_at_one_place_and_keys_spread() -> None:
    places = replicas(5)
    first = {f"s{i}": pick(places, f"s{i}", Random(1)).name for i in range(1000)}
    assert first == {key: pick(places, key, Random(2)).name for key in first}
    assert min(Counter(first.values()).values()) > 150
    gone = places[2].name
    moved = {key for key in first if pick([p for p in places if p.name != gone], key, Random(1)).name != first[key]}
    assert moved == {key for key, name in first.items() if name == gone}  # only those that had to


@settings(deadline=None)
@given(st.lists(st.sampled_from(["hot", "a", "b", "c"]), max_size=200), st.integers(2, 6))
def test_no_place_has_more_than_its_bound_however_hot_a_key(keys: Any, count: Any) -> None:
    places = replicas(count)
    for number, key in enumerate(keys, 1):
        pick(places, key, Random(1)).outstanding += 1
        assert max(place.outstanding for place in places) <= -(-LOAD_BOUND * number // count)


def test_weights_are_kept_and_a_change_moves_only_its_part() -> None:
    keys = [f"acme/key_{i}/" for i in range(4000)]
    before = {key: by_weight([("a", 90), ("b", 10), ("c", 0)], key) for key in keys}
    share = Counter(order[0] for order in before.values())
    assert 0.07 < share["b"] / len(keys) < 0.13
    assert share["c"] == 0
    assert {order[-1] for order in before.values()} == {"c"}
    after = {key: by_weight([("a", 80), ("b", 20), ("c", 0)], key) for key in keys}
    assert all(after[key][0] == "b" for key in keys if before[key][0] == "b")  # nobody moves back


def test_the_key_of_a_request_is_its_session_or_its_beginning_and_always_its_owners() -> None:
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


def test_a_circuit_opens_probes_once_and_closes_on_trial() -> None:
    clock = HandClock()
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
    circuit.answering(probe)
    assert circuit.state is State.CLOSED
    circuit.failed(probe)  # on trial: once is enough
    assert (circuit.state, circuit.ready_at) == (State.OPEN, clock.now + 4)
    clock.now += 4
    circuit.left(circuit.enter())
    assert (circuit.state, circuit.ready_at <= clock.now) == (State.OPEN, True)  # the next one probes
    probe = circuit.enter()
    circuit.answering(probe)
    circuit.succeeded(probe)
    for _ in range(4):
        circuit.failed(circuit.enter())
    assert circuit.state is State.CLOSED


def test_what_began_before_a_circuit_opened_says_nothing_of_the_probe() -> None:
    clock = HandClock()
    circuit = CircuitBreaker(CircuitSettings(consecutive_failures=1), clock, "m", "test")
    old = circuit.enter()
    circuit.failed(circuit.enter())
    clock.now += 2
    probe = circuit.enter()
    for told in (circuit.left, circuit.answering, circuit.succeeded, circuit.failed):
        told(old)
        assert circuit.state is State.HALF_OPEN
    circuit.left(probe)
    probe, left = circuit.enter(), probe
    circuit.failed(left)
    assert circuit.state is State.HALF_OPEN
    circuit.failed(probe)
    assert (circuit.state, circuit.ready_at) == (State.OPEN, clock.now + 4)  # doubled once


def test_an_open_circuit_is_probed_ever_later_and_at_most_so_late() -> None:
    clock = HandClock()
    circuit = CircuitBreaker(CircuitSettings(consecutive_failures=1), clock, "m", "test")
    waits = []
    for _ in range(8):
        circuit.failed(circuit.enter())
        waits.append(circuit.ready_at - clock.now)
        clock.now = circuit.ready_at
    assert waits[:4] == [2, 4, 8, 16]
    assert set(waits[4:]) == {20}


def test_every_second_failure_opens_a_circuit_too() -> None:
    circuit = CircuitBreaker(CircuitSettings(window=10), HandClock(), "m", "test")
    for number in range(10):
        assert circuit.state is State.CLOSED
        if number % 2:
            circuit.failed(circuit.enter())
        else:
            circuit.succeeded(circuit.enter())
    assert circuit.state is State.OPEN


def test_retries_are_a_part_of_the_requests_and_a_floor() -> None:
    clock = HandClock()
    retries = RetryBudget(RetrySettings(budget_ratio=0.25, budget_floor=1), clock, Random(1))
    assert sum(retries.spend() for _ in range(100)) == 10  # the floor's ten seconds
    for _ in range(40):
        retries.request()
    assert sum(retries.spend() for _ in range(100)) == 10
    clock.now += 3
    assert sum(retries.spend() for _ in range(100)) == 3


def test_waits_double_with_some_chance_up_to_the_most() -> None:
    retries = RetryBudget(RetrySettings(first_wait_seconds=0.1, max_wait_seconds=3), HandClock(), Random(1))
    for attempts in range(1, 10):
        longest = min(0.1 * 2 ** (attempts - 1), 3)
        waits = [retries.wait(attempts) for _ in range(50)]
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
def test_what_engines_call_the_end_of_an_answer(reason: Any, whole: Any, filtered: Any) -> None:
    assert (is_whole(reason), is_filtered(reason)) == (whole, filtered)


@pytest.mark.parametrize("name", ["content", "reasoning_content", "reasoning", "refusal"])
def test_every_kind_of_words_is_a_token(name: str) -> None:
    assert has_token({"choices": [{"delta": {name: "hm"}, "finish_reason": None}]})
    assert not has_token({"choices": [{"delta": {"role": "assistant", name: ""}, "finish_reason": None}]})


def body(**error):
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
def test_what_an_upstream_says_is_understood(status: int, raw: Any, cls) -> None:
    assert type(refusal(TARGET, status, raw)) is cls


def test_an_error_inside_a_stream_is_understood_by_its_code() -> None:
    assert type(in_band(TARGET, {"message": "m", "code": "content_filter"})) is ContentFiltered
    assert type(in_band(TARGET, {"message": "m", "code": "rate_limit_exceeded"})) is EngineLimited
    assert type(in_band(TARGET, {"message": "m", "code": 503})) is EngineUnavailable
    assert type(in_band(TARGET, "it broke")) is EngineUnavailable
    assert cause(in_band(TARGET, "it broke")).blames


@pytest.mark.parametrize("error", [RateLimited("the caller's own limit"), Unavailable("a part of ours")])
def test_what_is_no_engines_fault_is_final(error: Any) -> None:
    assert cause(error) == ("refused", False, False, False)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("7", "7"), ("0.5", "1"), ("soon", None), ("nan", "3600"), ("99999", "3600"), ("-3", "0"), (None, None)],
)
def test_a_retry_after_is_a_number_of_seconds(given: str | None, seconds: str | None) -> None:
    assert refusal(TARGET, 429, b"", given).metadata.get("retry_after") == seconds


def test_a_retry_after_may_be_a_date() -> None:
    after = refusal(TARGET, 503, b"", formatdate(time.time() + 90, usegmt=True)).metadata["retry_after"]
    assert 0 < int(after) <= 91


class DoubleDiscovery:
    """Knows one model, and may be gone."""

    gone = False
    asked = 0

    async def resolve_plan(self, request, timeout):
        self.asked += 1
        if self.gone:
            raise Unavailable("gone")
        model = ResolvedModel(model=Model(id="m", kind=Model.CHAT, engine="openai"), base_urls=["http://h/v1"])
        return discovery_pb2.Plan(id=request.id, targets=[discovery_pb2.Target(model=model, weight=1)])


async def test_plans_are_remembered_and_outlive_discovery(tmp_path: Path) -> None:
    clock, discovery = HandClock(), DoubleDiscovery()
    line = lambda model, most: AdmissionQueue(model, 1, 1, 1)  # noqa: E731
    models = ModelDirectory(
        cast(Any, discovery),
        cast(Any, lambda name: None),
        line,
        CircuitSettings(),
        clock,
        5,
        KillList(cast(Any, None), tmp_path / "kills"),
    )
    first = await models.plan("a")
    clock.now += 4
    assert await models.plan("a") is first
    assert discovery.asked == 1
    clock.now += 2
    again = await models.plan("a")
    assert discovery.asked == 2
    assert again.targets[0][0] is first.targets[0][0]  # with its line and its circuits
    discovery.gone = True
    clock.now += 60
    assert await models.plan("a") is again
    with pytest.raises(Unavailable):
        await models.plan("b")
