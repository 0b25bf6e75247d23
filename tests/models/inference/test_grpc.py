"""The Open Inference Protocol over gRPC: identity, scopes, methods, audit; and the conformance suite on all types."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from conformance.open_inference import models as conformance_models
from conformance.open_inference.case import Server
from conformance.open_inference.run import FAILED, PASSED, read_model, results

from drw.api.inference.v2 import open_inference_pb2 as pb
from models.cluster import KEY, ModelsCluster
from models.inference import onnx_models
from models.inference.running import ADMIN, call, channel, predictive, with_models


@pytest.fixture
async def cluster(start: Callable[..., Any], tmp_path: Path) -> AsyncIterator[ModelsCluster]:
    """Serving with an identity model."""
    same = predictive(onnx_models.identity(tmp_path / "same"))
    async with start(discovery=with_models(same=same), runtime={"preload": False}) as running:
        yield running


def request(model: str = "same", **fields: Any) -> pb.ModelInferRequest:
    """Return a request of one row."""
    message = pb.ModelInferRequest(model_name=model, **fields)
    message.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    message.raw_input_contents.append(np.array([1, 2], np.float32).tobytes())
    return message


async def test_call_is_audited_as_over_rest(cluster: ModelsCluster) -> None:
    async with channel(cluster) as opened:
        response = await call(opened, "ModelInfer", request(id="7"))
    assert response.id == "7" and np.frombuffer(response.raw_output_contents[0], np.float32).tolist() == [1, 2]
    (record,) = cluster.records()
    assert record["action"] == "model.inference" and record["outcome"] == "ok" and record["actor"] == "key_test"
    assert response.model_version in record["details"]["version"]
    assert {"request_sha256", "answer_sha256", "rows"} <= record["details"].keys()


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, grpc.StatusCode.UNAUTHENTICATED),
        ({"x-drw-key": "", "x-drw-scopes": "models:invoke"}, grpc.StatusCode.UNAUTHENTICATED),
        (KEY | {"x-drw-scopes": "models:read"}, grpc.StatusCode.PERMISSION_DENIED),
    ],
)
async def test_infer_needs_a_key_with_its_scope(
    cluster: ModelsCluster, headers: dict[str, str], code: grpc.StatusCode
) -> None:
    async with channel(cluster) as opened:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(opened, "ModelInfer", request(), headers)
    assert refused.value.code() is code


async def test_load_and_unload_need_the_administrator(cluster: ModelsCluster) -> None:
    load = pb.RepositoryModelLoadRequest(model_name="same")
    async with channel(cluster) as opened:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(opened, "RepositoryModelLoad", load)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        await call(opened, "RepositoryModelLoad", load, ADMIN)
        assert (await call(opened, "ModelReady", pb.ModelReadyRequest(name="same"))).ready
        await call(opened, "RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="same"), ADMIN)
        assert not (await call(opened, "ModelReady", pb.ModelReadyRequest(name="same"))).ready


async def test_only_the_protocol_is_served(cluster: ModelsCluster) -> None:
    """The address of the data plane never reaches the contracts between services."""
    async with channel(cluster) as opened:
        for path in ("/drw.api.models.v1.Serving/Chat", "/drw.api.kernel.v1.Process/GetStatus"):
            unary: Any = opened.unary_unary(path)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await unary(b"", metadata=list(KEY.items()))
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_stream_is_not_implemented_by_name(cluster: ModelsCluster) -> None:
    async with channel(cluster) as opened:
        stream: Any = opened.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        streamed = stream(metadata=list(KEY.items()))
        with pytest.raises(grpc.aio.AioRpcError, match="ModelStreamInfer"):
            await streamed.read()


async def test_oversized_message_is_refused(start: Callable[..., Any], tmp_path: Path) -> None:
    same = predictive(onnx_models.identity(tmp_path / "same"))
    settings = {"discovery": with_models(same=same), "max_body_bytes": 4096, "runtime": {"preload": False}}
    async with start(**settings) as cluster, channel(cluster) as opened:
        message = request()
        message.raw_input_contents[0] = bytes(8192)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(opened, "ModelInfer", message)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_cancelled_call_is_audited_as_client_gone(start: Callable[..., Any], tmp_path: Path) -> None:
    slow = predictive(onnx_models.slow(tmp_path / "slow", steps=400, size=512))
    async with start(discovery=with_models(slow=slow)) as cluster, channel(cluster) as opened:
        await call(opened, "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="slow"), ADMIN)
        message = pb.ModelInferRequest(model_name="slow", raw_input_contents=[bytes(256 * 512 * 4)])
        message.inputs.add(name="x", datatype="FP32", shape=[256, 512])
        running = asyncio.create_task(call(opened, "ModelInfer", message))
        await asyncio.sleep(0.05)
        running.cancel()
        outcomes: list[str] = []

        def recorded() -> bool:
            outcomes.extend(r["outcome"] for r in cluster.records() if r["action"] == "model.inference")
            return bool(outcomes)

        await cluster.until(recorded, "the record of the cancelled call")
        assert outcomes == ["client_gone"]


TYPES = ("bool", "uint64", "int8", "fp16", "bf16", "fp32", "bytes")
"""One data type of each kind; `test_tensors.py` has all of them."""


async def test_conformance_suite_passes(start: Callable[..., Any], tmp_path: Path) -> None:
    written = conformance_models.write(tmp_path)
    folders = {name: written[name] for name in (f"identity_{datatype}" for datatype in TYPES)}
    models = with_models(**{name: predictive(folder, memory_mib=200) for name, folder in folders.items()})
    async with start(discovery=models) as cluster:
        outcomes = await asyncio.to_thread(_run_suite, cluster, list(folders))
    failures = [f"{r.model} {r.case.name}: {r.detail}" for r in outcomes if r.outcome == FAILED]
    assert failures == []
    assert sum(result.outcome == PASSED for result in outcomes) > 100


def _run_suite(cluster: ModelsCluster, names: list[str]) -> list[Any]:
    import httpx

    server = Server("http://drw", cluster.inference, ADMIN)
    socket = cluster.inference.removeprefix("unix:")[:-1] + "h"
    server.http = httpx.Client(
        transport=httpx.HTTPTransport(uds=socket), base_url="http://drw", headers=ADMIN, timeout=60
    )
    try:
        models = [read_model(server, name) for name in names]
        every = list(results(server, models, ("core", "binary", "strict")))
        return every + list(results(server, models[:1], ("repository",)))
    finally:
        server.close()
