"""Signature of a predictive model: ONNX inputs and outputs as tensors of the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from drw.api.models.v1.discovery_pb2 import Tensor
from drw.model_files.description import TensorSignature

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float": "FP32",
    "double": "FP64",
    "bfloat16": "BF16",
    "string": "BYTES",
}
"""Open Inference Protocol v2, "Tensor Data Types", by the name in ONNX."""


def as_json(tensors: Iterable[TensorSignature]) -> list[dict[str, Any]]:
    """Return tensors as JSON values; a dimension of any size is -1, an unknown data type is empty."""
    return [
        {
            "name": tensor.name,
            "datatype": DATATYPES.get(tensor.dtype, ""),
            "shape": [size if isinstance(size, int) else -1 for size in tensor.shape or ()],
        }
        for tensor in tensors
    ]


def as_messages(values: Iterable[dict[str, Any]]) -> list[Tensor]:
    """Return tensors that `as_json` made as messages."""
    return [Tensor(**value) for value in values]
