"""Feedback for responses of the Responses API: by their id, once, and only inside the tenant and its walls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest

from models.cluster import KEY, ModelsCluster
from models.experiments.alias_calls import (
    ALIAS,
    ERRORS,
    FEED,
    GRADE,
    WRITER,
    events,
    post,
    start_experiment,
    until_assigned,
    until_recorded,
)

WALLED = {"x-drw-walls": "deal-1"}


@pytest.fixture
async def cluster(start: Callable[..., Any]) -> AsyncIterator[ModelsCluster]:
    """The cluster with an alias, a second model and a running experiment of the alias."""
    async with start(more=["experiments"], candidate={}, discovery=ALIAS, experiments=FEED) as cluster:
        await start_experiment(cluster, metrics=[GRADE, ERRORS])
        yield cluster


async def response_id(cluster: ModelsCluster, recorded: int = 2, **more: Any) -> str:
    """Create a response with the alias, and return its id once its exposure is recorded."""
    response = await cluster.client.responses.create(**{"model": "fast", "input": "x", "user": "user-1", **more})
    await until_recorded(cluster, recorded)
    assert response.id.startswith("resp_")
    return str(response.id)


async def grade(cluster: ModelsCluster, id_: str, value: float = 4, headers: dict[str, str] = WRITER) -> Any:
    return await post(cluster, "/api/v1/feedback", {"response_id": id_, "metric": "grade", "value": value}, headers)


@pytest.mark.parametrize("store", [True, False], ids=["stored", "not stored"])
async def test_feedback_counts_once_for_the_unit_of_a_response(cluster: ModelsCluster, store: bool) -> None:
    id_ = await response_id(cluster, store=store)
    assert (await grade(cluster, id_)).json() == {"experiments": ["swap"], "duplicate": False}
    assert (await grade(cluster, id_, 1)).json() == {"experiments": ["swap"], "duplicate": True}
    assert events(cluster, "select events, total from experiments.outcome where metric = 0") == [(1, 4.0)]


async def test_a_streamed_and_a_continued_response_take_feedback(cluster: ModelsCluster) -> None:
    stream = await cluster.client.responses.create(model="fast", input="x", user="user-2", stream=True)
    streamed = [event async for event in stream][-1].response.id  # type: ignore[union-attr]
    continued = await response_id(cluster, 3, previous_response_id=streamed)
    for id_ in (streamed, continued):
        assert (await grade(cluster, id_)).status_code == 200


async def test_feedback_stays_possible_after_the_response_is_deleted(cluster: ModelsCluster) -> None:
    id_ = await response_id(cluster)
    await cluster.client.responses.delete(id_)
    with pytest.raises(openai.NotFoundError):
        await cluster.client.responses.retrieve(id_)
    assert (await grade(cluster, id_)).status_code == 200


@pytest.mark.parametrize(
    "other", [{"x-drw-desk": "equities"}, {"x-drw-org": "beta"}, {"x-drw-org": "beta", "x-drw-desk": "equities"}]
)
async def test_ids_of_other_tenants_are_not_found(cluster: ModelsCluster, other: dict[str, str]) -> None:
    id_ = await response_id(cluster)
    theirs = await grade(cluster, id_, headers=WRITER | other)
    unknown = await grade(cluster, "resp_unknown", headers=WRITER | other)
    assert theirs.status_code == unknown.status_code == 404
    assert theirs.text.replace(id_, "resp_unknown") == unknown.text
    assert events(cluster, "select 1 from experiments.outcome where metric = 0") == []


async def test_feedback_needs_a_caller_inside_the_walls_of_the_call(cluster: ModelsCluster) -> None:
    id_ = await response_id(cluster, extra_headers=KEY | WALLED)
    assert (await cluster.http.get(f"/v1/responses/{id_}", headers=KEY)).status_code == 404
    assert (await grade(cluster, id_)).status_code == 404
    assert (await grade(cluster, id_, headers=WRITER | {"x-drw-walls": "deal-2"})).status_code == 404
    assert (await grade(cluster, id_, headers=WRITER | WALLED)).status_code == 200


async def test_feedback_needs_the_scope(cluster: ModelsCluster) -> None:
    id_ = await response_id(cluster)
    assert (await grade(cluster, id_, headers=KEY)).status_code == 403


async def test_responses_have_all_units_of_a_chat(cluster: ModelsCluster) -> None:
    await post(cluster, "/api/v1/experiments/swap:stop", {"reason": "next"})
    await until_assigned(cluster, assigned=False)
    units = {"session": {"x-session-id": "s"}, "document": {"x-document-id": "d"}, "key": {}, "request": {}}
    for unit, headers in units.items():
        await start_experiment(cluster, name=unit, unit=unit, metrics=[ERRORS], headers=WRITER | headers)
        body = {"model": "fast", "input": "x", "user": "user-1"}
        answer = await cluster.http.post("/v1/responses", json=body, headers=KEY | headers)
        assert answer.headers["x-experiment"].startswith(f"{unit}/")
        if headers:  # a user is no session
            without = await cluster.http.post("/v1/responses", json=body, headers=KEY)
            assert without.status_code == 200 and "x-experiment" not in without.headers
        await post(cluster, f"/api/v1/experiments/{unit}:stop", {"reason": "next"})
        await until_assigned(cluster, KEY | headers, assigned=False)
