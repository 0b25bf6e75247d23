"""Assignment in serving: equal in every replica, cheap, and safe while the experiments service is down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from drw.api.models.v1.experiments_pb2 import RetrievalSettings, RoutedExperiment, RoutedRollout, Routing
from drw.kernel.errors import Unavailable
from drw.kernel.rpc.context import Principal
from drw.kernel.rpc.json_messages import from_json
from drw.models.serving.experiments.calls import units_of
from drw.models.serving.openai.requests import ChatCompletion
from drw.routing.assignment import Allocation
from drw.routing.experiments.retrieval_settings import SearchSettings
from drw.routing.experiments.routing_table import CallKind, CallUnits, RoutingTable
from drw.routing.experiments.treatments import CallTreatment

WHO = Principal("acme", "research", "key_1", frozenset(), frozenset({"m-and-a"}))
REQUEST = ChatCompletion.model_validate({"model": "fast", "messages": [{"role": "user", "content": "x"}]})
ARMS: list[dict[str, Any]] = [
    {"name": "control", "weight": 1},
    {"name": "other", "weight": 1, "treatment": {"model": "candidate"}},
]
CHAT = CallKind()
EXPIRES_AT = 1_000


def experiment(key: int = 1, **fields: Any) -> RoutedExperiment:
    routed = {"org": "acme", "desk": "research", "name": f"e{key}", "alias": "fast", "unit": "user", "seed": f"s{key}"}
    return from_json(routed | {"key": key, "traffic_percent": 100, "arms": ARMS} | fields, RoutedExperiment)


def rollout(**fields: Any) -> RoutedRollout:
    routed = {"key": 9, "name": "r", "alias": "fast", "model": "candidate", "unit": "user", "seed": "r", "percent": 10}
    return from_json(routed | fields, RoutedRollout)


def routing(*experiments: RoutedExperiment, rollouts: tuple[RoutedRollout, ...] = ()) -> Routing:
    return Routing(experiments=experiments, rollouts=rollouts, expires_at=EXPIRES_AT)


def table(state: Routing, now: float = 0.0) -> RoutingTable:
    made = RoutingTable(clock=lambda: now)
    made.apply(state)
    return made


def label(made: RoutingTable, user: str, who: Principal = WHO) -> str | None:
    assigned = made.assign("fast", CHAT, who, CallUnits(user, "", "", "chatcmpl-1"))
    return assigned.label if assigned else None


def test_two_replicas_assign_equally() -> None:
    state = routing(experiment())
    first, second = table(state), table(Routing.FromString(state.SerializeToString()))
    labels = [label(first, f"user-{number}") for number in range(200)]
    assert labels == [label(second, f"user-{number}") for number in range(200)]
    assert set(labels) == {"e1/control", "e1/other"}


def test_the_search_and_the_call_of_a_question_have_one_arm_in_every_replica() -> None:
    arms = [ARMS[0], ARMS[1] | {"treatment": {"retrieval": {"limit": 2}, "model": "candidate"}}]
    state = routing(experiment(1, arms=arms, traffic_percent=80))
    retrieval, serving = table(state), table(Routing.FromString(state.SerializeToString()))
    labels = set()
    for number in range(200):
        units = CallUnits(f"user-{number}", "", "", "ask_1")
        assigned = retrieval.assign_search("fast", WHO, units)
        assert assigned is not None
        passed = serving.assigned(assigned.message(), "ask_1")
        same = serving.assign("fast", CallKind(retrieves=True), WHO, units)
        found = [each.label if each else None for each in (assigned.assignment, passed.assignment, same)]
        assert found[0] == found[1] == found[2]
        labels.add(found[0])
        assert assigned.search == passed.search
        assert assigned.search.limit == (2 if found[0] == "e1/other" else None)
        assert passed.assignment is None or passed.assignment.treatment.model == (
            "candidate" if found[0] == "e1/other" else ""
        )
    assert labels == {"e1/control", "e1/other", None}


def test_an_experiment_with_retrieval_settings_leaves_other_calls_to_others() -> None:
    arms = [ARMS[0], ARMS[1] | {"treatment": {"retrieval": {"limit": 2}}}]
    made = table(routing(experiment(1, arms=arms, walls=["m-and-a"]), experiment(2)))
    assert str(label(made, "user-1")).startswith("e2/")
    searched = made.assign_search("fast", WHO, CallUnits("user-1", "", "", "ask_1"))
    assert searched is not None and searched.assignment is not None and searched.assignment.name == "e1"
    outside = Principal("acme", "research", "key_2")
    assert made.assign_search("fast", outside, CallUnits("user-1", "", "", "ask_1")) is None  # serving assigns it to e2
    late = table(routing(experiment(1, arms=arms)), EXPIRES_AT)
    assert late.assign_search("fast", WHO, CallUnits("user-1", "", "", "ask_1")) is None


@pytest.mark.parametrize(
    ("requested", "arm", "limit", "threshold", "auto_filters"),
    [
        ((None, 0.0, None), {}, 4, 0.0, True),
        ((None, 0.0, None), {"limit": 9, "score_threshold": 0.3, "auto_filters": False}, 9, 0.3, False),
        ((3, 0.5, True), {"limit": 9, "score_threshold": 0.3, "auto_filters": False}, 3, 0.5, True),
        ((12, 0.1, False), {"limit": 9, "score_threshold": 0.3, "auto_filters": True}, 9, 0.3, True),
        ((12, 0.1, False), {}, 12, 0.1, False),
    ],
)
def test_of_a_request_and_an_arm_the_setting_that_finds_less_applies(
    requested: tuple[int | None, float, bool | None],
    arm: dict[str, Any],
    limit: int,
    threshold: float,
    auto_filters: bool,
) -> None:
    settings = SearchSettings.of(from_json(arm, RetrievalSettings))
    asked = (settings.limit_of(requested[0], 4), settings.threshold_of(requested[1]))
    assert (*asked, settings.auto_filters_of(requested[2])) == (limit, threshold, auto_filters)


def test_a_state_applies_until_it_expires() -> None:
    now = 0.0
    made = RoutingTable(clock=lambda: now)
    made.apply(routing(experiment(), rollouts=(rollout(percent=0, shadow_percent=100),)))
    assert label(made, "user-1") is not None
    other = Principal("acme", "equities", "key_2")
    assert made.shadow("fast", CHAT, other) is not None
    now = EXPIRES_AT
    assert label(made, "user-1") is None and made.shadow("fast", CHAT, other) is None


async def test_the_last_state_applies_after_a_restart_while_the_service_is_down(tmp_path: Path) -> None:
    async def one_state() -> AsyncIterator[Routing]:
        yield routing(experiment())
        await asyncio.Event().wait()

    async def down() -> AsyncIterator[Routing]:
        raise Unavailable("the experiments service does not answer")
        yield

    file = tmp_path / "routing.pb"
    first = RoutingTable(one_state, file, clock=lambda: 0.0)
    following = asyncio.create_task(first.follow())
    async with asyncio.timeout(10):
        while not file.exists():
            await asyncio.sleep(0.01)
    following.cancel()
    second = RoutingTable(down, file, clock=lambda: 0.0)
    with pytest.raises(Unavailable):
        await second.follow()
    assert label(second, "user-1") == label(first, "user-1") is not None


def test_many_experiments_cost_one_hash_per_call(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [experiment(number, desk=f"desk-{number % 20}", alias=f"alias-{number}") for number in range(2, 201)]
    made = table(routing(experiment(), *many))
    hashed: list[str] = []
    arm = Allocation.arm

    def counted(self: Allocation, unit: str) -> int | None:
        hashed.append(unit)
        return arm(self, unit)

    monkeypatch.setattr(Allocation, "arm", counted)
    assert label(made, "user-1") is not None
    assert hashed == ["user-1"]


def test_only_callers_of_the_desk_inside_the_walls_are_assigned() -> None:
    made = table(routing(experiment(1), experiment(2, walls=["m-and-a"]), experiment(3, desk="other")))
    assert str(label(made, "user-1")).startswith("e2/")  # the most specific walls
    outside = Principal("acme", "research", "key_2")
    assert str(label(made, "user-1", outside)).startswith("e1/")
    for who in (Principal("beta", "research", "key_3"), Principal("acme", "research2", "key_4")):
        assert label(made, "user-1", who) is None


def test_a_canary_has_a_control_group_of_its_size_and_keeps_it_as_it_grows() -> None:
    users = [f"user-{number}" for number in range(10_000)]
    groups = {}
    for percent in (1, 10, 50):
        made = table(routing(rollouts=(rollout(percent=percent),)))
        labels = {user: label(made, user) for user in users}
        groups[percent] = {user: name for user, name in labels.items() if name}
        candidates = list(groups[percent].values()).count("r/candidate")
        assert candidates == pytest.approx(percent * 100, rel=0.25)
        assert len(groups[percent]) - candidates == pytest.approx(percent * 100, rel=0.25)
    assert groups[1].items() <= groups[10].items() <= groups[50].items()


def test_users_of_two_desks_with_one_id_are_different_units() -> None:
    made = table(routing(rollouts=(rollout(percent=50),)))
    labels = {label(made, "user-1", Principal("acme", f"desk-{number}", "key")) for number in range(50)}
    assert labels == {"r/control", "r/candidate"}


@pytest.mark.parametrize(
    ("replace", "messages", "expected"),
    [
        (False, [("user", "q")], [("system", "new"), ("user", "q")]),
        (False, [("developer", "old"), ("user", "q")], [("developer", "new\n\nold"), ("user", "q")]),
        (True, [("system", "old"), ("user", "q"), ("developer", "more")], [("system", "new"), ("user", "q")]),
    ],
)
def test_the_prompt_of_an_arm_stands_first_or_replaces(
    replace: bool, messages: list[tuple[str, str]], expected: list[tuple[str, str]]
) -> None:
    treatment = CallTreatment(system_prompt="new", replace_system_prompt=replace)
    body = {"messages": [{"role": role, "content": content} for role, content in messages]}
    changed = treatment.apply(body, "max_tokens")
    assert [(one["role"], one["content"]) for one in changed["messages"]] == expected
    assert len(body["messages"]) == len(messages)


@pytest.mark.parametrize(("requested", "expected"), [(None, 10), (5, 5), (20, 10)])
def test_an_arm_shortens_answers_and_never_lengthens_them(requested: int | None, expected: int) -> None:
    body = {} if requested is None else {"max_completion_tokens": requested}
    assert CallTreatment(max_tokens=10).apply(body, "max_completion_tokens") == {"max_completion_tokens": expected}


def test_a_long_user_is_assigned_by_its_digest() -> None:
    """An identifier can have the size of a body, and the hash takes time for each character."""
    long = ChatCompletion.model_validate(REQUEST.model_dump() | {"safety_identifier": "x" * 5_000_000})
    units = units_of(long, "s" * 600, "d" * 512, "chatcmpl-1")
    assert (len(units.user), len(units.session), len(units.document)) == (64, 64, 512)
    other = ChatCompletion.model_validate(REQUEST.model_dump() | {"safety_identifier": "x" * 5_000_001})
    assert units_of(other, "", "", "chatcmpl-1").user != units.user
