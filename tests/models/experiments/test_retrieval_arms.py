"""Retrieval settings of arms in file_search: validation, precedence, tenants, exposures."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.types.json import Jsonb

from drw.routing.assignment import Allocation
from models.cluster import KEY, ModelsCluster
from models.experiments.alias_calls import (
    ALIAS,
    ERRORS,
    FEED,
    GRADE,
    WRITER,
    call,
    definition,
    events,
    post,
    results,
    until,
    until_recorded,
)

READER = KEY | {"x-drw-scopes": f"{WRITER['x-drw-scopes']} documents:read"}
FILTER = {"type": "eq", "key": "year", "value": 2026}
OTHERS = {"desk": {"x-drw-desk": "equities"}, "org": {"x-drw-org": "beta"}}


@pytest.fixture
async def cluster(start: Callable[..., Any]) -> AsyncIterator[ModelsCluster]:
    """The cluster with an alias, a second model and the experiments service."""
    async with start(more=["experiments"], candidate={}, discovery=ALIAS, experiments=FEED) as cluster:
        yield cluster


async def respond(
    cluster: ModelsCluster, user: str, headers: dict[str, str] = READER, tool: dict[str, Any] | None = None, **more: Any
) -> httpx.Response:
    """Send a response with a search as a user."""
    search = {"type": "file_search", "vector_store_ids": ["vs_1"], **(tool or {})}
    body = {"model": "fast", "input": "citing", "user": user, "tools": [search], **more}
    return await cluster.http.post("/v1/responses", json=body, headers=headers)


async def started(
    cluster: ModelsCluster, retrieval: dict[str, Any], headers: dict[str, str] = READER, **fields: Any
) -> tuple[str, str]:
    """Start an experiment, wait until serving assigns by it, and return a user of each arm."""
    fields = {"metrics": [ERRORS, GRADE]} | fields
    created = await post(cluster, "/api/v1/experiments", definition({"retrieval": retrieval}, **fields), headers)
    assert created.status_code == 200, created.text
    seed = (await post(cluster, "/api/v1/experiments/swap:start", headers=headers)).json()["seed"]

    async def assigned() -> bool:
        return "x-experiment" in (await respond(cluster, "probe", headers)).headers

    await until(assigned, "the routing of calls")
    cluster.vectors.requests.clear()
    allocation = Allocation.of_weights(seed, (1, 1), 100)
    users = [f"user-{number}" for number in range(50)]
    return next(u for u in users if allocation.arm(u) == 0), next(u for u in users if allocation.arm(u) == 1)


async def test_two_arms_search_differently_and_the_exposures_tell_the_arm(cluster: ModelsCluster) -> None:
    settings = {"limit": 1, "score_threshold": 0.25, "auto_filters": False, "filter": FILTER}
    control, other = await started(cluster, settings)
    cluster.records()
    cited = {}
    for user in (control, other):
        answer = await respond(cluster, user)
        cited[answer.headers["x-experiment"]] = [
            one["file_id"] for one in answer.json()["output"][1]["content"][0]["annotations"]
        ]
    assert cited == {"swap/control": ["file_vs_1_1", "file_vs_1_0"], "swap/other": ["file_vs_1_0"]}
    first, second = cluster.vectors.requests
    assert (first.limit, first.no_auto_filters, dict(first.second_filter)) == (10, False, {})
    assert (second.limit, second.no_auto_filters, dict(second.second_filter)["key"]) == (1, True, "year")
    await until_recorded(cluster, 3)
    canonical = (
        '{"auto_filters":false,"filter":{"key":"year","type":"eq","value":2026},"limit":1,"score_threshold":0.25}'
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    rows = events(cluster, "select arm, encode(settings, 'hex') from experiments.call_event order by id")
    assert rows[-2:] == [(0, None), (1, digest)]
    records = [record["details"] for record in cluster.records() if record["action"] == "model.response"]
    assert [(one["experiment"], one.get("retrieval_settings_sha256")) for one in records[-2:]] == [
        ("swap/control", None),
        ("swap/other", digest),
    ]


@pytest.mark.parametrize(
    ("tool", "limit", "results"),
    [
        ({}, 2, 2),
        ({"max_num_results": 1}, 1, 1),
        ({"max_num_results": 50}, 2, 2),
        ({"ranking_options": {"score_threshold": 0.9}}, 2, 1),
        ({"ranking_options": {"score_threshold": 0.1}}, 2, 2),
    ],
)
async def test_of_a_setting_in_both_the_one_that_finds_less_applies(
    cluster: ModelsCluster, tool: dict[str, Any], limit: int, results: int
) -> None:
    _, other = await started(cluster, {"limit": 2, "score_threshold": 0.4, "filter": FILTER})
    answer = await respond(
        cluster,
        other,
        tool=tool | {"filters": {"type": "eq", "key": "desk", "value": "rates"}},
        include=["file_search_call.results"],
    )
    (sent,) = cluster.vectors.requests
    assert (sent.limit, dict(sent.filter)["key"], dict(sent.second_filter)["key"]) == (limit, "desk", "year")
    assert len(answer.json()["output"][0]["results"]) == results


async def test_calls_without_a_search_are_not_taken(cluster: ModelsCluster) -> None:
    _, other = await started(cluster, {"limit": 1}, metrics=[ERRORS])
    assert "x-experiment" not in (await call(cluster, other)).headers
    unsearched = await cluster.http.post(
        "/v1/responses", json={"model": "fast", "input": "x", "user": other}, headers=READER
    )
    assert unsearched.status_code == 200 and "x-experiment" not in unsearched.headers
    skipped = await respond(cluster, other, tool_choice="none")
    assert skipped.status_code == 200 and "x-experiment" not in skipped.headers
    found = await until_recorded(cluster, 1)
    assert found["delivery"]["not_assigned"] == 0


@pytest.mark.parametrize(
    ("retrieval", "param"),
    [
        ({"limit": 21}, "arms[1].treatment.retrieval.limit"),
        ({"limit": 0}, "arms[1].treatment.retrieval.limit"),
        ({"limit": -1}, "arms[1].treatment.retrieval.limit"),
        ({"score_threshold": 1.5}, "arms[1].treatment.retrieval.score_threshold"),
        ({"score_threshold": "NaN"}, "arms[1].treatment.retrieval.score_threshold"),
        ({"filter": {}}, "arms[1].treatment.retrieval.filter.type"),
        ({"filter": {"type": "near", "key": "a", "value": 1}}, "arms[1].treatment.retrieval.filter.type"),
        ({"filter": FILTER | {"value": {"a": 1}}}, "arms[1].treatment.retrieval.filter.value"),
        ({}, "arms[1].treatment.retrieval"),
        # Not retrieval settings: what would widen a search, or does not exist.
        ({"limit": 1, "collection": "vs_2"}, "arms[1].treatment.retrieval.collection"),
        ({"limit": 1, "walls": ["m-and-a"]}, "arms[1].treatment.retrieval.walls"),
        ({"limit": 1, "org": "beta"}, "arms[1].treatment.retrieval.org"),
        ({"rerank": True}, "arms[1].treatment.retrieval.rerank"),
        # Ill-typed.
        ({"limit": "many"}, "arms.treatment.retrieval.limit"),
        ({"limit": 1.5}, "arms[1].treatment.retrieval.limit"),
        ({"auto_filters": "yes"}, "arms[1].treatment.retrieval.auto_filters"),
        ({"score_threshold": "high"}, "arms[1].treatment.retrieval.score_threshold"),
        ({"filter": "year"}, "arms[1].treatment.retrieval.filter"),
        ([1], "arms.treatment.retrieval.1"),
    ],
)
async def test_invalid_settings_are_refused_by_name(cluster: ModelsCluster, retrieval: Any, param: str) -> None:
    refused = await post(cluster, "/api/v1/experiments", definition({"retrieval": retrieval}))
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), refused.text


async def test_a_large_filter_is_refused(cluster: ModelsCluster) -> None:
    large = {"type": "in", "key": "a", "value": ["x" * 500] * 40}
    refused = await post(cluster, "/api/v1/experiments", definition({"retrieval": {"filter": large}}))
    assert refused.status_code == 400 and "bytes" in refused.text


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
async def test_other_tenants_get_neither_the_settings_nor_the_documents(
    cluster: ModelsCluster, other: dict[str, str]
) -> None:
    _, user = await started(cluster, {"limit": 1})
    theirs = await respond(cluster, user, READER | other)
    assert "x-experiment" not in theirs.headers
    assert cluster.vectors.requests[-1].limit == 10
    if "x-drw-desk" in other:  # the double has documents of one desk
        assert theirs.status_code == 404


async def test_an_arm_gives_no_right_that_the_key_lacks(cluster: ModelsCluster) -> None:
    _, user = await started(cluster, {"limit": 1})
    without_documents = await respond(cluster, user, WRITER)
    assert without_documents.status_code == 403 and "'documents:read'" in without_documents.text
    walled = await respond(cluster, user, READER | {"x-drw-walls": "deal-1"})
    assert walled.headers["x-experiment"] == "swap/other"
    assert "['deal-1']" in cluster.double.bodies[-1]["messages"][0]["content"]
    unwalled = await respond(cluster, user)
    assert unwalled.headers["x-experiment"] == "swap/other"
    assert "for []" in cluster.double.bodies[-1]["messages"][0]["content"]


async def test_a_mistake_of_the_caller_is_no_exposure(cluster: ModelsCluster) -> None:
    _, user = await started(cluster, {"limit": 1})
    missing = await respond(cluster, user, tool={"vector_store_ids": ["vs_9"]})
    assert missing.status_code == 404
    assert (await respond(cluster, user)).status_code == 200
    found = await until_recorded(cluster, 2)
    assert found["delivery"]["recorded"] == 2
    assert all(not outcomes["ERROR"] for _, outcomes in events(cluster))


async def test_a_failed_search_counts_as_an_error_of_the_arm(cluster: ModelsCluster) -> None:
    _, user = await started(cluster, {"limit": 1})
    cluster.vectors.is_down = True
    failed = await respond(cluster, user)
    assert failed.status_code == 503, failed.text
    await until_recorded(cluster, 2)
    assert (1, 1) in [(arm, outcomes["ERROR"]) for arm, outcomes in events(cluster)]


async def test_a_call_that_two_services_record_counts_once(cluster: ModelsCluster) -> None:
    """Retrieval writes the exposure of a question whose answer failed, and so can serving."""
    await started(cluster, {"limit": 1})
    await until_recorded(cluster, 1)
    before = (await results(cluster))["delivery"]["recorded"]
    ((key,),) = events(cluster, "select key from experiments.experiment")
    event = {"experiment": key, "unit": "ab" * 16, "arm": 1, "response": "ask_1"}
    with psycopg.connect(cluster.database) as connection:
        insert = "insert into audit.outbox (topic, body) values ('experiments', %s)"
        for body in (event, event | {"outcomes": {"ERROR": 1}}):
            connection.execute(insert, (Jsonb(body),))
    assert (await until_recorded(cluster, before + 1))["delivery"]["recorded"] == before + 1
    unit = bytes.fromhex(str(event["unit"]))
    outcomes = events(cluster, "select unit, positive from experiments.outcome")
    assert [positive for each, positive in outcomes if each == unit] == [1]
    assert events(cluster, "select unit from experiments.call_event").count((unit,)) == 1
