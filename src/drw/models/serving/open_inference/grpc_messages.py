"""Conversion between gRPC messages of the Open Inference Protocol and tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from drw.api.inference.v2.open_inference_pb2 import (
    InferParameter,
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataResponse,
)
from drw.kernel.errors import InvalidRequest
from drw.models.serving.open_inference.repository import PLATFORM, ModelMetadata
from drw.models.serving.open_inference.requests import (
    MAX_ID,
    TIMEOUT,
    InferRequest,
    RequestedOutput,
    check_names,
    check_parameters,
    timeout_seconds,
)
from drw.tensors.datatypes import (
    BOOL,
    BYTES,
    DATATYPES,
    NUMPY,
    Tensor,
    TensorError,
    check_data,
    element_count,
    elements,
    encoded,
)

CONTENTS = {
    BOOL: "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
"""The field of each data type. FP16 and BF16 have none and are always raw."""
REQUEST_PARAMETERS = {TIMEOUT: int}
OUTPUT_PARAMETERS = {"binary_data": bool, "binary_data_output": bool}
"""Parameters of the HTTP extension that some clients also send over gRPC, where the request decides the form."""


def decode(message: ModelInferRequest) -> InferRequest:
    """Check a request and return it with its tensors in the binary encoding.

    Raises:
        InvalidRequest: the request is malformed, or has a parameter that is not supported.
    """
    if len(message.id) > MAX_ID:
        raise InvalidRequest(f"id has {len(message.id)} characters; at most {MAX_ID}", param="id")
    parameters = _parameters(message.parameters)
    check_parameters(parameters, {**REQUEST_PARAMETERS, **OUTPUT_PARAMETERS}, "the request")
    if not message.inputs:
        raise InvalidRequest("inputs is empty", param="inputs")
    check_names([tensor.name for tensor in message.inputs], "input")
    check_names([output.name for output in message.outputs], "output")
    for output in message.outputs:
        check_parameters(_parameters(output.parameters), OUTPUT_PARAMETERS, f"the output {output.name!r}")
    return InferRequest(
        message.model_name,
        message.model_version,
        message.id,
        _inputs(message),
        tuple(RequestedOutput(output.name) for output in message.outputs),
        timeout_seconds(parameters),
        binary_outputs=bool(message.raw_input_contents),
    )


def encode(request: InferRequest, model: str, version: str, outputs: Sequence[Tensor]) -> ModelInferResponse:
    """Return the response. Outputs are raw if the inputs were, or if a data type has no other form."""
    response = ModelInferResponse(model_name=model, model_version=version, id=request.id)
    raw = request.binary_outputs or any(tensor.datatype not in CONTENTS for tensor in outputs)
    for tensor in outputs:
        item = response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if raw:
            response.raw_output_contents.append(bytes(tensor.data))
        else:
            getattr(item.contents, CONTENTS[tensor.datatype]).extend(_values(tensor))
    return response


def metadata(model: ModelMetadata) -> ModelMetadataResponse:
    """Return the metadata of a model."""
    response = ModelMetadataResponse(name=model.name, versions=model.versions, platform=PLATFORM)
    for specs, target in ((model.inputs, response.inputs), (model.outputs, response.outputs)):
        for spec in specs:
            target.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
    return response


def _inputs(message: ModelInferRequest) -> tuple[Tensor, ...]:
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        text = f"raw_input_contents has {len(raw)} items; there are {len(message.inputs)} inputs"
        raise InvalidRequest(text, param="raw_input_contents")
    tensors = []
    for index, item in enumerate(message.inputs):
        check_parameters(_parameters(item.parameters), {"binary_data_size": int}, f"the input {item.name!r}")
        if item.datatype not in DATATYPES:
            text = f"the input {item.name!r} has the datatype {item.datatype!r}; it can be {', '.join(DATATYPES)}"
            raise InvalidRequest(text, param="inputs")
        if raw and item.contents.ListFields():
            raise InvalidRequest(f"the input {item.name!r} has contents and raw_input_contents", param="inputs")
        try:
            element_count(item.shape)
            data = raw[index] if raw else _from_contents(item.name, item.datatype, item.contents)
            check_data(item.datatype, item.shape, data)
        except TensorError as error:
            raise InvalidRequest(f"the input {item.name!r}: {error}", param="inputs") from None
        tensors.append(Tensor(item.name, item.datatype, tuple(item.shape), data))
    return tuple(tensors)


def _from_contents(name: str, datatype: str, contents: InferTensorContents) -> bytes:
    if (expected := CONTENTS.get(datatype)) is None:
        raise InvalidRequest(f"the input {name!r}: {datatype} must be in raw_input_contents", param="inputs")
    if other := [field.name for field, _ in contents.ListFields() if field.name != expected]:
        raise InvalidRequest(f"the input {name!r} of {datatype} has {other[0]}; give {expected}", param="inputs")
    values: Any = getattr(contents, expected)
    if datatype == BYTES:
        return encoded(values)
    array = np.array(values, dtype=np.int64 if expected == "int_contents" else None)
    if expected in ("int_contents", "uint_contents") and array.size:
        limits = np.iinfo(NUMPY[datatype])
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise InvalidRequest(f"the input {name!r} has values outside of {datatype}", param="inputs")
    return array.astype(NUMPY[datatype]).tobytes()


def _values(tensor: Tensor) -> Any:
    if tensor.datatype == BYTES:
        return elements(tensor.data)
    return np.frombuffer(tensor.data, NUMPY[tensor.datatype]).tolist()


def _parameters(parameters: Mapping[str, InferParameter]) -> dict[str, Any]:
    values = {}
    for name, value in parameters.items():
        if (field := value.WhichOneof("parameter_choice")) is None:
            raise InvalidRequest(f"the parameter {name!r} has no value", param=name)
        values[name] = getattr(value, field)
    return values
