"""File search of the Responses API: with doubles of the embedding service, the vector store and an engine."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from models.cluster import KEY, ModelsCluster
from models.responses.test_responses import create

READER = {"x-drw-scopes": f"{KEY['x-drw-scopes']} documents:read"}
SEARCH: dict[str, Any] = {"type": "file_search", "vector_store_ids": ["vs_1"], "max_num_results": 2}


async def search(cluster: ModelsCluster, tool: dict[str, Any] = SEARCH, **more: Any) -> Any:
    return await create(cluster, **{"tools": [tool], "extra_headers": READER, **more})


async def test_the_answer_cites_the_passages(cluster: ModelsCluster) -> None:
    complete = await search(cluster, input="citing", include=["file_search_call.results"])
    events = [e async for e in await search(cluster, input="citing", include=["file_search_call.results"], stream=True)]
    streamed = events[-1].response
    for response in (complete, streamed):
        call, message = response.output
        assert (call.type, call.status, call.queries) == ("file_search_call", "completed", ["citing"])
        assert [(result.file_id, result.filename) for result in call.results] == [
            ("file_vs_1_0", "vs_1_0.txt"),
            ("file_vs_1_1", "vs_1_1.txt"),
        ]
        assert call.results[0].text.startswith("Passage 0 of vs_1")
        (part,) = message.content
        assert part.text == "Rates [2] rose [1, 9]."
        cited = [(a.type, a.file_id, a.filename, a.index) for a in part.annotations]
        assert cited == [
            ("file_citation", "file_vs_1_1", "vs_1_1.txt", part.text.index("[2]")),
            ("file_citation", "file_vs_1_0", "vs_1_0.txt", part.text.index("[1")),
        ]
    assert [event.type for event in events][2:8] == [
        "response.output_item.added",
        "response.file_search_call.in_progress",
        "response.file_search_call.searching",
        "response.file_search_call.completed",
        "response.output_item.done",
        "response.output_item.added",
    ]
    assert [event.output_index for event in events[2:9]] == [0, 0, 0, 0, 0, 1, 1]
    assert [event.type for event in events].count("response.output_text.annotation.added") == 2
    system = cluster.double.bodies[-1]["messages"][0]
    assert system["role"] == "system"
    assert "[1] vs_1_0.txt, page 1\nPassage 0 of vs_1" in system["content"]
    actions = [record["action"] for record in cluster.records()]
    assert actions == ["collection.search", "model.response"] * 2


async def test_parameters_reach_the_search(cluster: ModelsCluster) -> None:
    filters = {"type": "eq", "key": "year", "value": 2026}
    stores = {"vector_store_ids": ["vs_1", "vs_2", "vs_1"], "ranking_options": {"score_threshold": 0.6}}
    response = await search(
        cluster,
        {**SEARCH, **stores, "filters": filters},
        input=[{"role": "user", "content": "old"}, {"role": "user", "content": "a" * 5000}],
        include=["file_search_call.results"],
    )
    first, second = cluster.vectors.requests
    assert (first.collection, second.collection, first.limit) == ("vs_1", "vs_2", 2)
    assert first.text == "a" * 4000
    assert dict(first.filter)["key"] == "year"
    scores = [(result.file_id, round(result.score, 2)) for result in response.output[0].results]
    assert scores == [("file_vs_1_0", 1.0), ("file_vs_2_0", 0.67)]
    without = await search(cluster)
    assert without.output[0].results is None


async def test_no_choice_means_no_search(cluster: ModelsCluster) -> None:
    for choice, searches in (("none", 0), ("required", 1), ({"type": "file_search"}, 1)):
        cluster.vectors.requests.clear()
        await search(cluster, tool_choice=choice)
        assert len(cluster.vectors.requests) == searches
        assert "tools" not in cluster.double.bodies[-1]


async def test_only_passages_that_fit_are_sent_and_cited(start: Any) -> None:
    async with start(responses={"file_search_characters": 60}) as cluster:
        response = await search(cluster, {**SEARCH, "max_num_results": 50}, input="citing")
        system = cluster.double.bodies[-1]["messages"][0]["content"]
        assert "[1] vs_1_0.txt" in system and "[3]" not in system
        assert len(response.output[1].content[0].annotations) == 2


async def test_failed_searches_fail_the_request_before_the_model(cluster: ModelsCluster) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no collection 'vs_9'"):
        await search(cluster, {**SEARCH, "vector_store_ids": ["vs_1", "vs_9"]})
    with pytest.raises(openai.NotFoundError, match="there is no collection 'vs_1'"):
        await search(cluster, extra_headers={**READER, "x-drw-desk": "side"})
    with pytest.raises(openai.PermissionDeniedError, match="'documents:read'"):
        await search(cluster, extra_headers={})
    with pytest.raises(openai.BadRequestError, match="file_search needs a text of the user"):
        await search(cluster, input=[{"role": "assistant", "content": "a"}])
    for tool, param in (
        ({**SEARCH, "filters": {"type": "near"}}, "tools.filters.type"),
        ({**SEARCH, "ranking_options": {"hybrid_search": {}}}, "tools[0].file_search.ranking_options.hybrid_search"),
        ({**SEARCH, "max_num_results": 51}, "tools[0].file_search.max_num_results"),
        ({**SEARCH, "vector_store_ids": []}, "tools[0].file_search.vector_store_ids"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            await search(cluster, tool)
        assert refused.value.param == param
    with pytest.raises(openai.BadRequestError, match="more than one file_search"):
        await create(cluster, tools=[SEARCH, SEARCH], extra_headers=READER)
    assert cluster.double.bodies == []


async def test_the_walls_of_the_caller_reach_the_search(cluster: ModelsCluster) -> None:
    await search(cluster, extra_headers={**READER, "x-drw-walls": "deal-1"})
    assert "['deal-1']" in cluster.double.bodies[-1]["messages"][0]["content"]
