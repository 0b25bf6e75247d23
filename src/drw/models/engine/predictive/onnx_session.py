"""An ONNX model in ONNX Runtime: conversion of tensors, and inference."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from drw.tensors.datatypes import BF16, BYTES, NUMPY, Tensor, TensorSpec, elements, encoded

DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": BF16,
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": BYTES,
}
ONNX_BFLOAT16 = 16
"""`TensorProto.BFLOAT16` of ONNX."""
ERRORS_ONLY = 3


class RequestRejected(Exception):
    """The model cannot process these inputs."""


class UnsupportedModel(Exception):
    """The model cannot be served."""


class OnnxSession:
    """A loaded model. It runs one request at a time.

    Raises:
        UnsupportedModel: ONNX Runtime cannot load the file, or an input or output is not a tensor of a known type.
    """

    def __init__(self, file: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        # Threads that spin while they wait for work take the processors of other models.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Weights are used from the file where the format permits it, and the arena grows by what is needed.
        options.enable_mem_pattern = False
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - ONNX Runtime has no common base class of its errors
            raise UnsupportedModel(_reason(error)) from None
        self.inputs = tuple(_spec(argument) for argument in self._session.get_inputs())
        self.outputs = tuple(_spec(argument) for argument in self._session.get_outputs())
        datatypes = {spec.datatype for spec in (*self.inputs, *self.outputs)}
        if datatypes >= {BF16, BYTES}:  # each of them needs another way to pass values to ONNX Runtime
            raise UnsupportedModel("a model with both bfloat16 and string tensors cannot be served")
        self._bfloat16 = BF16 in datatypes
        self._datatypes = {spec.name: spec.datatype for spec in self.outputs}

    def run(self, inputs: Sequence[Tensor], outputs: Sequence[str]) -> list[Tensor]:
        """Return the outputs of these names, or all outputs.

        Raises:
            RequestRejected: ONNX Runtime reports an error for these inputs.
        """
        names = list(outputs) or [spec.name for spec in self.outputs]
        try:
            if self._bfloat16:
                feed = {tensor.name: _ort_value(tensor) for tensor in inputs}
                values = self._session.run_with_ort_values(names, feed)
                return [self._from_value(name, value) for name, value in zip(names, values, strict=True)]
            arrays = self._session.run(names, {tensor.name: _array(tensor) for tensor in inputs})
        except UnicodeDecodeError:
            raise RequestRejected("an element of BYTES is not UTF-8; strings of ONNX models are UTF-8") from None
        except RequestRejected:
            raise
        except Exception as error:  # noqa: BLE001 - ONNX Runtime has no common base class of its errors
            raise RequestRejected(_reason(error)) from None
        return [_from_array(name, self._datatypes[name], array) for name, array in zip(names, arrays, strict=True)]

    def _from_value(self, name: str, value: Any) -> Tensor:
        if self._datatypes[name] != BF16:
            return _from_array(name, self._datatypes[name], value.numpy())
        data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
        return Tensor(name, BF16, tuple(value.shape()), data)


def _spec(argument: Any) -> TensorSpec:
    if (datatype := DATATYPES.get(argument.type)) is None:
        raise UnsupportedModel(f"{argument.name!r} has the type {argument.type}; served types: {', '.join(DATATYPES)}")
    shape = tuple(size if isinstance(size, int) else -1 for size in argument.shape)
    symbols = tuple(size if isinstance(size, str) else "" for size in argument.shape)
    return TensorSpec(argument.name, datatype, shape, symbols)


def _array(tensor: Tensor) -> Any:
    if tensor.datatype == BYTES:
        texts = np.empty(len(values := elements(tensor.data)), dtype=object)
        texts[:] = [value.decode() for value in values]
        return texts.reshape(tensor.shape)
    return np.frombuffer(tensor.data, NUMPY[tensor.datatype]).reshape(tensor.shape)


def _ort_value(tensor: Tensor) -> Any:
    if tensor.datatype != BF16:
        return onnxruntime.OrtValue.ortvalue_from_numpy(_array(tensor))
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(_array(tensor), ONNX_BFLOAT16)


def _from_array(name: str, datatype: str, array: Any) -> Tensor:
    if datatype == BYTES:
        values = np.asarray(array, dtype=object)
        return Tensor(name, datatype, values.shape, encoded(str(value).encode() for value in values.ravel()))
    typed = np.ascontiguousarray(array, NUMPY[datatype])
    return Tensor(name, datatype, np.shape(array), typed.tobytes())


def _reason(error: Exception) -> str:
    """Return the message of an error of ONNX Runtime without the path of the file."""
    text = " ".join(str(error).split())
    return text.partition(" : ")[2][:500] or text[:500] or type(error).__name__
