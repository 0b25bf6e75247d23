"""`POST /v1/rerank` with the files of a cross-encoder: scores, metering, audit, permits, kills and fallbacks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from drw.api.gateway.v1.request_router_pb2 import Kill
from models.cluster import ModelsCluster, StartCluster
from models.inference import onnx_models
from models.inference.running import predictive, with_models
from support.json_types import Json, JsonObject

DOCUMENTS = ["no no", {"text": "yes yes"}, "no yes"]


def reranker(folder: Path, **settings: Json) -> JsonObject:
    """Return the settings of a reranker with files."""
    return predictive(onnx_models.cross_encoder(folder), **settings) | {"kind": "reranker"}


@pytest.fixture
async def cluster(start: StartCluster, tmp_path: Path) -> AsyncIterator[ModelsCluster]:
    folder = tmp_path / "broken"
    broken = reranker(folder, fallbacks=["rank"])
    (folder / "tokenizer.json").unlink()
    gone = {"kind": "reranker", "engine": "openai", "base_url": f"unix:{tmp_path}/gone", "fallbacks": ["rank"]}
    scale = predictive(tmp_path / "scale")
    onnx_models.scale(tmp_path / "scale", 3.0)
    models = with_models(rank=reranker(tmp_path / "r"), broken=broken, gone=gone, scale=scale)
    async with start(discovery=models | {"aliases": {"best": {"targets": {"rank": 1}}}}) as running:
        yield running


async def rerank(cluster: ModelsCluster, model: str, **fields: Json) -> Json:
    body = {"model": model, "query": "query", "documents": DOCUMENTS, **fields}
    return await cluster.http.post("/v1/rerank", json=body)


async def test_documents_are_ordered_by_the_cross_encoder(cluster: ModelsCluster) -> None:
    answer = await rerank(cluster, "rank")
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [one["index"] for one in results] == [1, 2, 0]
    assert results[2]["relevance_score"] == pytest.approx(0.5) and results[0]["document"] == {"text": "yes yes"}
    tokens = answer.json()["usage"]["total_tokens"]
    record = cluster.records()[-1]
    details = record["details"]
    assert (record["action"], record["resource"], record["outcome"]) == ("model.rerank", "model/rank", "ok")
    assert details["version"].startswith("sha256:") and details["prompt_tokens"] == tokens > 0
    assert details["engine"] == "onnx" and "yes yes" not in str(record)


async def test_an_alias_names_a_reranker(cluster: ModelsCluster) -> None:
    answer = (await rerank(cluster, "best", top_n=1)).json()
    assert [one["index"] for one in answer["results"]] == [1] and answer["model"] == "best"
    assert cluster.records()[-1]["details"]["model"] == "rank"


@pytest.mark.parametrize("failing", ["broken", "gone"])
async def test_a_fallback_answers_for_a_reranker_that_fails(cluster: ModelsCluster, failing: str) -> None:
    answer = await rerank(cluster, failing)
    assert [one["index"] for one in answer.json()["results"]] == [1, 2, 0], answer.text
    records = [record for record in cluster.records() if record["action"] == "model.rerank"]
    assert [record["outcome"] for record in records] == ["ok"] and records[0]["details"]["model"] == "rank"


async def test_a_kill_of_the_model_stops_it_behind_its_alias(cluster: ModelsCluster) -> None:
    await cluster.kills.kill(Kill(subject=Kill.MODEL, name="rank"))

    async def killed(name: str) -> bool:
        return (await rerank(cluster, name)).status_code == 403

    async with asyncio.timeout(30):
        while not (await killed("rank") and await killed("best")):
            await asyncio.sleep(0.01)
    last = cluster.records()[-1]
    assert (last["action"], last["outcome"]) == ("model.rerank", "killed"), last


async def test_other_kinds_are_refused(cluster: ModelsCluster) -> None:
    error = await rerank(cluster, "scale")
    assert (error.status_code, error.json()["error"]["param"]) == (400, "model")
    tensors = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}
    assert (await cluster.http.post("/v2/models/gone/infer", json=tensors)).status_code == 400


async def test_a_model_without_a_valid_record_is_refused(start: StartCluster, tmp_path: Path) -> None:
    discovery = with_models(rank=reranker(tmp_path / "r")) | {"require_validation": True}
    async with start(discovery=discovery) as cluster:
        refused = await rerank(cluster, "rank")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_validated"), refused.text
