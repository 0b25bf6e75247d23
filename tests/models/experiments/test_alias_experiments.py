"""Experiments of aliases: assignment in serving, treatments, exposures and outcomes of calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from drw.routing.assignment import Allocation
from models.cluster import KEY, ModelsCluster
from models.experiments.alias_calls import (
    ALIAS,
    ERRORS,
    FEED,
    GRADE,
    WRITER,
    call,
    calls,
    definition,
    events,
    post,
    results,
    start_experiment,
    until,
    until_assigned,
    until_recorded,
)

USERS = [f"user-{number}" for number in range(24)]
OTHER_DESK = WRITER | {"x-drw-desk": "equities", "x-drw-key": "key_equities"}
OTHER_ORG = WRITER | {"x-drw-org": "beta", "x-drw-key": "key_beta"}


@pytest.fixture
async def cluster(start: Callable[..., Any]) -> AsyncIterator[ModelsCluster]:
    """The cluster with an alias, a second model and the experiments service."""
    async with start(more=["experiments"], candidate={}, discovery=ALIAS, experiments=FEED) as cluster:
        yield cluster


def arm_of(experiment: dict[str, Any], user: str) -> str:
    index = Allocation.of_weights(experiment["seed"], (1, 1), experiment["traffic_percent"]).arm(user)
    return "control" if not index else "other"


async def test_each_user_gets_the_model_of_its_arm_and_is_measured(cluster: ModelsCluster) -> None:
    experiment = await start_experiment(cluster)
    cluster.double.bodies.clear()
    answers = await calls(cluster, USERS)
    arms = [arm_of(experiment, user) for user in USERS]
    assert [answer.headers["x-experiment"] for answer in answers] == [f"swap/{arm}" for arm in arms]
    models = {"control": "double", "other": "candidate"}
    assert [answer.json()["model"] for answer in answers] == [models[arm] for arm in arms]
    assert {body["model"] for body in cluster.double.bodies} == {"up-1", "up-2"}
    again = await calls(cluster, USERS)
    assert [answer.headers["x-experiment"] for answer in again] == [f"swap/{arm}" for arm in arms]
    found = await until_recorded(cluster, 2 * len(USERS))
    units = {arm["arm"]: arm["units"] for arm in found["arms"]}
    probe = arm_of(experiment, "probe")
    assert units == {arm: arms.count(arm) + (arm == probe) for arm in ("control", "other")}
    assert found["delivery"]["lost"] == found["delivery"]["not_assigned"] == 0
    for arm, outcomes in events(cluster):
        assert arm in (0, 1)
        assert outcomes["ERROR"] == 0 and outcomes["TOKENS"] == 8
        assert 0 < outcomes["FIRST_TOKEN_MS"] <= outcomes["TOTAL_MS"]
    records = [record for record in cluster.records() if record["action"] == "model.chat"]
    assert {record["details"].get("experiment") for record in records} >= {"swap/control", "swap/other"}


@pytest.mark.parametrize(
    ("treatment", "messages", "expected"),
    [
        ({"parameters": {"temperature": 0, "max_tokens": 7, "stop": ["x"]}}, None, {"temperature": 0, "stop": ["x"]}),
        ({"system_prompt": "Be brief."}, ["system:Be brief.", "user:plain"], {}),
    ],
)
async def test_an_arm_changes_parameters_and_prompt(
    cluster: ModelsCluster, treatment: dict[str, Any], messages: list[str] | None, expected: dict[str, Any]
) -> None:
    experiment = await start_experiment(cluster, treatment)
    cluster.double.bodies.clear()
    user = next(user for user in USERS if arm_of(experiment, user) == "other")
    answer = await call(cluster, user, temperature=1, max_tokens=9)
    assert answer.json()["model"] == "double"
    sent = cluster.double.bodies[-1]
    assert sent.items() >= expected.items()
    if messages:
        assert [f"{message['role']}:{message['content']}" for message in sent["messages"]] == messages
    else:
        assert sent["max_tokens"] == 7
    control = next(user for user in USERS if arm_of(experiment, user) == "control")
    await call(cluster, control, temperature=1, max_tokens=9)
    assert cluster.double.bodies[-1].items() >= {"temperature": 1, "max_tokens": 9}.items()
    assert len(cluster.double.bodies[-1]["messages"]) == 1


async def test_a_failing_arm_costs_the_caller_nothing_and_counts_as_errors(cluster: ModelsCluster) -> None:
    experiment = await start_experiment(cluster, metrics=[ERRORS])
    cluster.double.failing.add("up-2")
    answers = await calls(cluster, USERS)
    assert {(answer.status_code, answer.json()["model"]) for answer in answers} == {(200, "double")}
    arms = [arm_of(experiment, user) for user in USERS]
    await until_recorded(cluster, len(USERS))
    errors = [(arm, outcomes["ERROR"]) for arm, outcomes in events(cluster)]
    assert errors.count((1, 1)) == arms.count("other") > 5
    assert (0, 1) not in errors


async def test_a_call_without_the_unit_gets_control_and_is_counted(cluster: ModelsCluster) -> None:
    await start_experiment(cluster)
    cluster.double.bodies.clear()
    for _ in range(3):
        assert "x-experiment" not in (await call(cluster, None)).headers
    assert {body["model"] for body in cluster.double.bodies} == {"up-1"}

    async def counted() -> bool:
        return bool((await results(cluster))["delivery"]["not_assigned"] == 3)

    await until(counted, "the calls without a user")


@pytest.mark.parametrize("other", [OTHER_DESK, OTHER_ORG], ids=["desk", "org"])
async def test_other_tenants_are_neither_assigned_nor_can_they_read_or_give_feedback(
    cluster: ModelsCluster, other: dict[str, str]
) -> None:
    experiment = await start_experiment(cluster)
    user = next(user for user in USERS if arm_of(experiment, user) == "other")
    answer = await call(cluster, user)
    await until_recorded(cluster, 1)
    theirs = await call(cluster, user, headers=other)
    assert "x-experiment" not in theirs.headers and theirs.json()["model"] == "double"
    read = await cluster.http.get("/api/v1/experiments/swap/results", headers=other)
    assert read.status_code == 404
    feedback = {"response_id": answer.json()["id"], "metric": "grade", "value": 1}
    refused = await post(cluster, "/api/v1/feedback", feedback, other)
    assert refused.status_code == 404, refused.text
    assert (await post(cluster, "/api/v1/feedback", feedback)).status_code == 200


async def test_an_experiment_inside_a_wall_takes_only_callers_inside(cluster: ModelsCluster) -> None:
    inside = WRITER | {"x-drw-walls": "m-and-a"}
    await start_experiment(cluster, headers=inside)
    assert "x-experiment" not in (await call(cluster, "user-1")).headers
    assert "x-experiment" in (await call(cluster, "user-1", headers=inside)).headers
    assert (await cluster.http.get("/api/v1/experiments/swap/results", headers=WRITER)).status_code == 404


async def test_feedback_counts_once_for_the_unit_of_the_call(cluster: ModelsCluster) -> None:
    await start_experiment(cluster, metrics=[GRADE, ERRORS])
    answer = await call(cluster, "user-1")
    await until_recorded(cluster, 2)
    feedback = {"response_id": answer.json()["id"], "metric": "grade", "value": 4}
    first = (await post(cluster, "/api/v1/feedback", feedback)).json()
    assert first == {"experiments": ["swap"], "duplicate": False}
    again = (await post(cluster, "/api/v1/feedback", feedback | {"value": 1})).json()
    assert again == {"experiments": ["swap"], "duplicate": True}
    rows = events(cluster, "select events, total from experiments.outcome where metric = 0")
    assert rows == [(1, 4.0)]
    for body, param in (
        (feedback | {"metric": "errors"}, "metric"),
        (feedback | {"metric": "none"}, "metric"),
        (feedback | {"value": 6}, "value"),
    ):
        refused = await post(cluster, "/api/v1/feedback", body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    body = {"model": "fast", "max_tokens": 5, "messages": [{"role": "user", "content": "plain"}]}
    body |= {"metadata": {"user_id": "user-2"}}
    message = await cluster.http.post("/v1/messages", json=body, headers=KEY | {"anthropic-version": "2023-06-01"})
    assert message.status_code == 200, message.text
    await until_recorded(cluster, 3)
    anthropic = await post(cluster, "/api/v1/feedback", feedback | {"response_id": message.json()["id"]})
    assert anthropic.json() == {"experiments": ["swap"], "duplicate": False}
    unknown = await post(cluster, "/api/v1/feedback", feedback | {"response_id": "chatcmpl-unknown"})
    assert unknown.status_code == 404


async def test_invalid_treatments_are_refused(cluster: ModelsCluster) -> None:
    invalid: list[tuple[dict[str, Any], str]] = [
        ({"alias": "unknown"}, "alias"),
        ({"alias": "double"}, "alias"),
        ({"treatment": {"model": "unknown"}}, "arms[1].treatment.model"),
        ({"treatment": {"model": "vectors"}}, "arms[1].treatment.model"),
        ({"treatment": {"parameters": {"temperature": 3}}}, "arms[1].treatment.parameters.temperature"),
        ({"treatment": {"parameters": {"max_tokens": 0}}}, "arms[1].treatment.parameters.max_tokens"),
        ({"treatment": {"parameters": {"top_p": "NaN"}}}, "arms[1].treatment.parameters.top_p"),
        ({"treatment": {"parameters": {"stop": ["a"] * 5}}}, "arms[1].treatment.parameters.stop"),
        ({"treatment": {"system_prompt": "x" * 8193}}, "arms[1].treatment.system_prompt"),
        (
            {"treatment": {"model": "candidate", "replace_system_prompt": True}},
            "arms[1].treatment.replace_system_prompt",
        ),
        ({"treatment": {"parameters": {}}, "alias": ""}, "arms[1].treatment"),
        ({"metrics": [ERRORS | {"kind": "QUANTILE", "quantile": 0.9}]}, "metrics[0].source"),
    ]
    for fields, param in invalid:
        refused = await post(cluster, "/api/v1/experiments", definition(**fields))
        assert refused.status_code == 400, refused.text
        assert refused.json()["error"]["param"] == param


async def test_the_control_arm_has_no_treatment_and_others_have_one(cluster: ModelsCluster) -> None:
    arms: list[dict[str, Any]] = [{"name": "control", "weight": 1, "treatment": {"model": "candidate"}}]
    refused = await post(cluster, "/api/v1/experiments", definition(arms=[*arms, {"name": "other", "weight": 1}]))
    assert refused.json()["error"]["param"] == "arms[0].treatment"
    arms = [{"name": "control", "weight": 1}, {"name": "other", "weight": 1}]
    refused = await post(cluster, "/api/v1/experiments", definition(arms=arms))
    assert refused.json()["error"]["param"] == "arms[1].treatment"


async def test_one_experiment_of_an_alias_runs_at_a_time(cluster: ModelsCluster) -> None:
    await start_experiment(cluster)
    await post(cluster, "/api/v1/experiments", definition(name="second"))
    refused = await post(cluster, "/api/v1/experiments/second:start")
    assert refused.status_code == 409 and "'swap'" in refused.text
    await post(cluster, "/api/v1/experiments/swap:stop", {"reason": "enough"})
    await until_assigned(cluster, assigned=False)
    assert (await post(cluster, "/api/v1/experiments/second:start")).status_code == 200
    await until_assigned(cluster)


async def test_values_that_the_platform_measures_cannot_be_recorded(cluster: ModelsCluster) -> None:
    await start_experiment(cluster)
    outcomes = {"outcomes": [{"unit": "user-1", "metric": "errors", "value": 1}]}
    refused = await post(cluster, "/api/v1/experiments/swap/outcomes", outcomes)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "outcomes[0].metric"


async def test_units_can_be_keys_sessions_documents_and_requests(cluster: ModelsCluster) -> None:
    units = {"key": {}, "session": {"x-session-id": "s"}, "document": {"x-document-id": "d"}, "request": {}}
    metrics = [ERRORS]
    for unit, headers in units.items():
        await start_experiment(cluster, name=unit, unit=unit, metrics=metrics, headers=WRITER | headers)
        with_unit = await call(cluster, None, headers=KEY | headers)
        assert with_unit.headers["x-experiment"].startswith(f"{unit}/")
        if headers:
            assert "x-experiment" not in (await call(cluster, None)).headers
        await post(cluster, f"/api/v1/experiments/{unit}:stop", {"reason": "next"})
        await until_assigned(cluster, KEY | headers, assigned=False)


async def test_completions_take_part_only_if_all_arms_can_answer_them(cluster: ModelsCluster) -> None:
    async def complete(prompt: Any) -> Any:
        body = {"model": "fast", "prompt": prompt, "user": "user-1"}
        return await cluster.http.post("/v1/completions", json=body)

    await start_experiment(cluster)
    assert "x-experiment" in (await complete("plain")).headers
    assert "x-experiment" not in (await complete([1, 2])).headers
    await post(cluster, "/api/v1/experiments/swap:stop", {"reason": "next"})
    await until_assigned(cluster, assigned=False)
    await start_experiment(cluster, {"system_prompt": "Be brief."}, name="prompt")
    assert "x-experiment" not in (await complete("plain")).headers
