"""The Open Inference Protocol over REST: protocol, authorisation, metering, audit, and requests that attack it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from drw.api.gateway.v1.request_router_pb2 import Kill
from models.cluster import KEY, ModelsCluster
from models.inference import onnx_models
from models.inference.running import ADMIN, infer, predictive, rows, with_models


@pytest.fixture
async def cluster(start: Callable[..., Any], tmp_path: Path) -> AsyncIterator[ModelsCluster]:
    """Serving with an identity model, a division and a lookup."""
    models = with_models(
        same=predictive(onnx_models.identity(tmp_path / "same")),
        divide=predictive(onnx_models.divide(tmp_path / "divide")),
        lookup=predictive(onnx_models.gather(tmp_path / "lookup")),
        half=predictive(onnx_models.identity(tmp_path / "half", "FP16")),
        brain=predictive(onnx_models.identity(tmp_path / "brain", "BF16")),
        texts=predictive(onnx_models.identity(tmp_path / "texts", "BYTES")),
    )
    runtime = {"preload": False, "max_json_bytes": 64 << 10, "max_output_bytes": 1 << 20}
    async with start(discovery=models, runtime=runtime) as running:
        yield running


async def test_call_is_audited_with_version_and_hashes(cluster: ModelsCluster) -> None:
    response = await infer(cluster, "same", rows([1.0, 2.5]))
    assert response.status_code == 200, response.text
    (record,) = [record for record in cluster.records() if record["action"] == "model.inference"]
    details = record["details"]
    assert record["outcome"] == "ok" and record["resource"] == "model/same" and record["actor"] == "key_test"
    assert details["version"].startswith("sha256:") and response.json()["model_version"] in details["version"]
    assert details["request_sha256"] == sha256(response.request.content).hexdigest()
    assert details["answer_sha256"] == sha256(response.content).hexdigest()
    assert details["rows"] == 1
    assert "2.5" not in json.dumps(record)


async def test_refused_call_is_audited(cluster: ModelsCluster) -> None:
    response = await infer(cluster, "same", rows([1.0]))
    assert response.status_code == 400
    assert "[-1, 2]" in response.json()["error"]
    (record,) = [record for record in cluster.records() if record["action"] == "model.inference"]
    assert record["outcome"] == "refused"


@pytest.mark.parametrize(
    ("scopes", "infer_status", "metadata_status", "load_status"),
    [("models:invoke", 200, 200, 403), ("models:read", 403, 200, 403), ("documents:read", 403, 403, 403)],
)
async def test_scopes(
    cluster: ModelsCluster, scopes: str, infer_status: int, metadata_status: int, load_status: int
) -> None:
    headers = {"x-drw-scopes": scopes}
    assert (await infer(cluster, "same", rows([1, 2]), **headers)).status_code == infer_status
    assert (await cluster.http.get("/v2/models/same", headers=headers)).status_code == metadata_status
    assert (await cluster.http.post("/v2/repository/index", headers=headers)).status_code == metadata_status
    for action in ("load", "unload"):
        response = await cluster.http.post(f"/v2/repository/models/same/{action}", headers=headers)
        assert response.status_code == load_status
        assert isinstance(response.json()["error"], str)


async def test_every_path_needs_a_key(cluster: ModelsCluster) -> None:
    transport = cluster.http._transport
    async with httpx.AsyncClient(transport=transport, base_url="http://drw") as anonymous:
        for method, path in [
            ("GET", "/v2"),
            ("GET", "/v2/health/live"),
            ("GET", "/v2/health/ready"),
            ("GET", "/v2/models/same"),
            ("GET", "/v2/models/same/ready"),
            ("POST", "/v2/models/same/infer"),
            ("POST", "/v2/repository/index"),
            ("POST", "/v2/repository/models/same/load"),
        ]:
            response = await anonymous.request(method, path, json=rows([1, 2]) if method == "POST" else None)
            assert response.status_code == 401, path


async def test_kill_of_a_model_stops_it(cluster: ModelsCluster) -> None:
    await cluster.kills.kill(Kill(subject=Kill.MODEL, name="same"))

    async def killed() -> bool:
        return (await infer(cluster, "same", rows([1, 2]))).status_code == 403

    async with asyncio.timeout(30):
        while not await killed():
            await asyncio.sleep(0.01)
    assert (await infer(cluster, "lookup", rows(*[1, 2], name="x", datatype="INT64"))).status_code == 200


async def test_load_and_unload_are_audited(cluster: ModelsCluster) -> None:
    assert (await cluster.http.get("/v2/models/same/ready")).status_code == 503
    for action, status in (("load", 200), ("unload", 503), ("load", 200)):
        assert (await cluster.http.post(f"/v2/repository/models/same/{action}", headers=ADMIN)).status_code == 200
        assert (await cluster.http.get("/v2/models/same/ready")).status_code == status
    actions = [record["action"] for record in cluster.records()]
    assert actions == ["model.load", "model.unload", "model.load"]


async def test_chat_model_is_not_predictive(cluster: ModelsCluster) -> None:
    response = await infer(cluster, "double", rows([1, 2]))
    assert response.status_code == 400
    assert "not a predictive model" in response.json()["error"]
    chat = await cluster.http.post(
        "/v1/chat/completions", json={"model": "same", "messages": [{"role": "user", "content": "hi"}]}
    )
    assert chat.status_code == 400
    assert "predictive" in chat.json()["error"]["message"]


UNSUPPORTED = {
    "sequence_id": 7,
    "sequence_start": True,
    "priority": 1,
    "nonsense": 1,
    "timeout": 0,
}


@pytest.mark.parametrize("name", UNSUPPORTED)
async def test_unsupported_parameters_are_named(cluster: ModelsCluster, name: str) -> None:
    response = await infer(cluster, "same", rows([1, 2]) | {"parameters": {name: UNSUPPORTED[name]}})
    assert response.status_code == 400
    assert name in response.json()["error"]


async def test_shared_memory_and_classification_are_rejected_by_name(cluster: ModelsCluster) -> None:
    request: Any = rows([1, 2])
    request["inputs"][0]["parameters"] = {"shared_memory_region": "r", "shared_memory_byte_size": 8}
    response = await infer(cluster, "same", request)
    assert response.status_code == 400 and "shared memory" in response.json()["error"]
    response = await infer(
        cluster, "same", rows([1, 2]) | {"outputs": [{"name": "y", "parameters": {"classification": 2}}]}
    )
    assert response.status_code == 400 and "classification" in response.json()["error"]


async def test_result_that_json_cannot_represent_needs_binary(cluster: ModelsCluster) -> None:
    inputs = [{"name": name, "datatype": "FP32", "shape": [2], "data": [0, 1]} for name in ("a", "b")]
    response = await infer(cluster, "divide", {"inputs": inputs})
    assert response.status_code == 400 and "binary_data" in response.json()["error"]
    response = await infer(cluster, "divide", {"inputs": inputs, "parameters": {"binary_data_output": True}})
    length = int(response.headers["inference-header-content-length"])
    values = np.frombuffer(response.content[length:], np.float32)
    assert np.isnan(values[0]) and values[1] == 1


async def test_half_precision_in_json(cluster: ModelsCluster) -> None:
    # kserve#3643 and triton#7021: FP16 cannot be sent or read without binary data elsewhere.
    for model, datatype in (("half", "FP16"), ("brain", "BF16")):
        response = await infer(cluster, model, rows([1.5, -2.0], datatype=datatype))
        assert response.json()["outputs"][0]["data"] == [1.5, -2.0], response.text
        too_large = await infer(cluster, model, rows([1e39, 0], datatype=datatype))
        assert too_large.status_code == 400 and datatype in too_large.json()["error"]


async def test_bfloat16_rounds_to_nearest_even(cluster: ModelsCluster) -> None:
    # kserve PR#4706: BF16 is truncated or missing in clients and servers.
    response = await infer(cluster, "brain", rows([1.00390625, 1.01171875], datatype="BF16"))
    assert response.json()["outputs"][0]["data"] == [1.0, 1.015625]


async def test_error_of_the_model_is_the_callers(cluster: ModelsCluster) -> None:
    response = await infer(cluster, "lookup", rows(*[1, 99], name="x", datatype="INT64"))
    assert response.status_code == 400 and "rejects the inputs" in response.json()["error"]
    assert "/" not in response.json()["error"].partition("rejects")[2]  # no path of the server
    assert (await infer(cluster, "lookup", rows(*[1, 3], name="x", datatype="INT64"))).status_code == 200


async def test_large_json_is_rejected_and_large_binary_is_not(cluster: ModelsCluster) -> None:
    values = np.zeros((20_000, 2), np.float32)
    response = await infer(cluster, "same", rows(*values.tolist()))
    assert response.status_code == 413 and "binary" in response.json()["error"]
    header = {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [20_000, 2], "parameters": {"binary_data_size": values.nbytes}}
        ]
    }
    text = orjson.dumps(header | {"parameters": {"binary_data_output": True}})
    headers = {"inference-header-content-length": str(len(text))}
    response = await cluster.http.post("/v2/models/same/infer", content=text + values.tobytes(), headers=headers)
    assert response.status_code == 200
    assert response.content.endswith(values.tobytes())
    text = orjson.dumps(header)
    headers = {"inference-header-content-length": str(len(text))}
    response = await cluster.http.post("/v2/models/same/infer", content=text + values.tobytes(), headers=headers)
    assert response.status_code == 400 and "binary_data" in response.json()["error"]


async def test_output_is_bounded(cluster: ModelsCluster) -> None:
    values = np.zeros((200_000, 2), np.float32)
    text = orjson.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "FP32",
                    "shape": list(values.shape),
                    "parameters": {"binary_data_size": values.nbytes},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    )
    headers = {"inference-header-content-length": str(len(text))}
    response = await cluster.http.post("/v2/models/same/infer", content=text + values.tobytes(), headers=headers)
    assert response.status_code == 400 and "outputs have 1600000 bytes" in response.json()["error"]


async def test_compressed_bomb_is_bounded(cluster: ModelsCluster) -> None:
    import gzip

    bomb = gzip.compress(b" " * (40 << 20))
    headers = {"content-encoding": "gzip"}
    response = await cluster.http.post("/v2/models/same/infer", content=bomb, headers=headers)
    assert response.status_code == 413


async def test_strings_are_utf8(cluster: ModelsCluster) -> None:
    response = await infer(cluster, "texts", rows(["Zürich", ""], ["€", "a\x00b"], datatype="BYTES"))
    assert response.json()["outputs"][0]["data"] == ["Zürich", "", "€", "a\x00b"]
    text = orjson.dumps(
        {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1, 2], "parameters": {"binary_data_size": 10}}]}
    )
    data = b"\x01\x00\x00\x00\xff\x01\x00\x00\x00a"
    headers = {"inference-header-content-length": str(len(text))}
    response = await cluster.http.post("/v2/models/texts/infer", content=text + data, headers=headers)
    assert response.status_code == 400 and "UTF-8" in response.json()["error"]


async def test_timeout_is_honoured(start: Callable[..., Any], tmp_path: Path) -> None:
    models = with_models(slow=predictive(onnx_models.slow(tmp_path / "slow", steps=400, size=512)))
    async with start(discovery=models) as cluster:
        request = {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [64, 512], "data": [0] * (64 * 512)}],
            "parameters": {"timeout": 1000},
        }
        await cluster.http.post("/v2/repository/models/slow/load", headers=ADMIN)
        response = await infer(cluster, "slow", request)
        assert response.status_code == 504
        assert "timeout" in response.json()["error"]


async def test_foreign_body_fields_are_rejected(cluster: ModelsCluster) -> None:
    response = await infer(cluster, "same", rows([1, 2]) | {"model_name": "lookup"})
    assert response.status_code == 400 and "model_name" in response.json()["error"]
    assert (await infer(cluster, "same", rows([1, 2]) | {"model_name": "same"})).status_code == 200
    assert (await infer(cluster, "same", rows([1, 2]) | {"secret": 1})).status_code == 400


async def test_other_org_does_not_share_the_body_buffer(cluster: ModelsCluster) -> None:
    other = KEY | {"x-drw-org": "other"}
    assert (await infer(cluster, "same", rows([1, 2]), **other)).status_code == 200
