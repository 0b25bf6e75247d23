"""`POST /v1/rerank`: upstreams in the formats of vLLM, Cohere and TEI, and the embedding model as a bi-encoder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from models.cluster import ModelsCluster, StartCluster
from support.json_types import Json, JsonObject

DOCUMENTS = ["copper", {"text": "rates rose today"}, "zinc"]


class DoubleReranker:
    """Scores a document by its length; `answer` replaces the answer."""

    def __init__(self) -> None:
        self.bodies: list[JsonObject] = []
        self.tei = False
        self.answer: Json = None
        self.status = 200

    async def rerank(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        if self.status != 200:
            return web.json_response({"error": {"message": "it broke"}}, status=self.status)
        if self.answer is not None:
            return web.json_response(self.answer)
        if self.tei:
            if "texts" not in body:
                text = "Failed to deserialize the JSON body into the target type: missing field `texts`"
                return web.json_response({"error": {"message": text, "type": "Validation"}}, status=422)
            scores = [{"index": i, "score": float(len(text))} for i, text in enumerate(body["texts"])]
            return web.json_response(sorted(scores, key=lambda one: -one["score"]))
        results = [{"index": i, "relevance_score": float(len(text))} for i, text in enumerate(body["documents"])]
        return web.json_response({"results": results[::-1], "usage": {"total_tokens": 21}})


Upstream = tuple[ModelsCluster, DoubleReranker]


@asynccontextmanager
async def double_reranker(socket: Path) -> AsyncIterator[DoubleReranker]:
    double = DoubleReranker()
    app = web.Application()
    app.router.add_post("/v1/rerank", double.rerank)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(socket)).start()
    try:
        yield double
    finally:
        await runner.cleanup()


@pytest.fixture
async def upstream(start: StartCluster, tmp_path: Path) -> AsyncIterator[Upstream]:
    socket = tmp_path / "r"
    model = {"kind": "reranker", "engine": "openai", "base_url": f"unix:{socket}", "upstream_model": "bge"}
    double = {"engine": "openai", "base_url": f"unix:{tmp_path}/x"}
    vectors = {"kind": "embedding", "engine": "onnx", "dimensions": 2}
    models = {"ranker": model, "chat": double, "vectors": vectors}
    async with double_reranker(socket) as reranker, start(discovery={"models": models}) as cluster:
        yield cluster, reranker


async def rerank(cluster: ModelsCluster, model: str = "ranker", **fields: Json) -> Json:
    body = {"model": model, "query": "what rose?", "documents": DOCUMENTS, **fields}
    return await cluster.http.post("/v1/rerank", json=body)


async def test_documents_are_ordered_by_the_scores_of_the_upstream(
    upstream: Upstream,
) -> None:
    cluster, double = upstream
    answer = (await rerank(cluster)).json()
    assert [(one["index"], one["relevance_score"]) for one in answer["results"]] == [(1, 16.0), (0, 6.0), (2, 4.0)]
    assert answer["results"][0]["document"] == {"text": "rates rose today"}
    assert answer["usage"] == {"prompt_tokens": 21, "total_tokens": 21} and answer["model"] == "ranker"
    assert double.bodies == [
        {"model": "bge", "query": "what rose?", "documents": ["copper", "rates rose today", "zinc"]}
    ]
    record = cluster.records()[-1]
    assert (record["action"], record["resource"], record["outcome"]) == ("model.rerank", "model/ranker", "ok")
    assert record["details"]["prompt_tokens"] == 21 and "rates" not in str(record)


async def test_top_n_and_return_documents_are_honoured(upstream: Upstream) -> None:
    cluster, _ = upstream
    results = (await rerank(cluster, top_n=2, return_documents=False)).json()["results"]
    assert results == [{"index": 1, "relevance_score": 16.0}, {"index": 0, "relevance_score": 6.0}]
    assert len((await rerank(cluster, top_n=50)).json()["results"]) == 3


async def test_the_format_of_tei_is_detected_once(upstream: Upstream) -> None:
    cluster, double = upstream
    double.tei = True
    for _ in range(2):
        answer = (await rerank(cluster)).json()
        assert [one["index"] for one in answer["results"]] == [1, 0, 2]
        assert answer["usage"]["total_tokens"] > 0  # estimated: TEI reports none
    assert ["texts" in body for body in double.bodies] == [False, True, True]


async def test_an_embedding_model_reranks_by_cosine(upstream: Upstream) -> None:
    cluster, _ = upstream
    answer = (await rerank(cluster, "vectors")).json()
    order = [one["index"] for one in answer["results"]]
    assert sorted(order) == [0, 1, 2] and order[0] == 1  # the double embeds a text as its length
    assert all(-1 <= one["relevance_score"] <= 1.000001 for one in answer["results"])
    assert answer["usage"]["total_tokens"] == 4
    long = (await rerank(cluster, "vectors", documents=["a", "x" * 101])).json()["error"]
    assert long["param"] == "documents[1]" and long["code"] == "context_length_exceeded"
    assert (await rerank(cluster, "vectors", query="x" * 101)).json()["error"]["param"] == "query"


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        {"results": None},
        {"results": [{"index": 0, "relevance_score": 1}]},
        {"results": [{"index": 0, "relevance_score": 1}] * 3},
        {"results": [{"index": i, "relevance_score": "high"} for i in range(3)]},
        {"results": [{"index": i, "relevance_score": 1} for i in range(1, 4)]},
        {"results": ["a", "b", "c"]},
    ],
)
async def test_incomplete_answers_are_errors(upstream: Upstream, answer: Json) -> None:
    cluster, double = upstream
    double.answer = answer
    assert (await rerank(cluster)).status_code == 503
    assert cluster.records()[-1]["outcome"] == "failed"


async def test_errors_of_the_upstream_and_of_the_request_are_named(
    upstream: Upstream,
) -> None:
    cluster, double = upstream
    double.status = 500
    assert (await rerank(cluster)).status_code == 503
    for fields, param in (
        ({"documents": []}, "documents"),
        ({"documents": ["a"] * 1001}, "documents"),
        ({"documents": [{"text": "a", "title": "b"}]}, "documents[0].title"),
        ({"query": ""}, "query"),
        ({"top_n": 0}, "top_n"),
        ({"max_tokens_per_doc": 5}, "max_tokens_per_doc"),
        ({"model": "chat"}, "model"),
    ):
        error = await rerank(cluster, **fields)
        assert (error.status_code, error.json()["error"]["param"]) == (400, param), error.text
    assert (await rerank(cluster, "unknown")).status_code == 404
