"""Serving with predictive models, and calls over REST and gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np

from drw.api.inference.v2 import open_inference_pb2 as pb
from models.cluster import KEY, ModelsCluster

SERVICE = "/inference.GRPCInferenceService/"
ADMIN = KEY | {"x-drw-scopes": "models:invoke models:read platform:admin"}


def predictive(folder: Path, **settings: Any) -> dict[str, Any]:
    """Return the settings of a predictive model."""
    return {"kind": "predictive", "engine": "onnx", "folder": str(folder), **settings}


def with_models(**models: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of discovery with these models."""
    return {"models": models}


def rows(*values: Any, name: str = "x", datatype: str = "FP32") -> dict[str, Any]:
    """Return a request with one input of these rows."""
    return {"inputs": [{"name": name, "datatype": datatype, "shape": list(np.shape(values)), "data": list(values)}]}


async def infer(cluster: ModelsCluster, model: str, request: Mapping[str, Any], **headers: str) -> Any:
    """Send a request over REST, and return the response."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await cluster.http.post(f"/v2/models/{model}/infer", json=request, headers=named)


@asynccontextmanager
async def channel(cluster: ModelsCluster) -> AsyncIterator[grpc.aio.Channel]:
    """Connect to the gRPC server of serving."""
    async with grpc.aio.insecure_channel(cluster.inference) as opened:
        yield opened


async def call(channel: grpc.aio.Channel, method: str, request: Any, headers: Mapping[str, str] = KEY) -> Any:
    """Call a method over gRPC with the identity that the data plane would set."""
    response = getattr(pb, type(request).__name__.removesuffix("Request") + "Response")
    unary: Any = channel.unary_unary(
        f"{SERVICE}{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=response.FromString,
    )
    return await unary(request, metadata=list(headers.items()), timeout=60)
