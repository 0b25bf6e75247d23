"""Bodies of inference over REST: JSON, binary tensor data, or both.

Source: kserve/open-inference-protocol, inference_rest.md; binary tensor data extension: the header
`Inference-Header-Content-Length` has the length of the JSON. The binary data follows it in the order of the tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from drw.kernel.errors import InvalidRequest, TooLarge
from drw.models.serving.open_inference.json_tensors import from_json, to_json
from drw.models.serving.open_inference.requests import (
    MAX_ID,
    TIMEOUT,
    InferRequest,
    RequestedOutput,
    check_names,
    check_parameters,
    timeout_seconds,
)
from drw.tensors.datatypes import DATATYPES, Tensor, TensorError, check_data, element_count

BINARY_OUTPUT, BINARY, BINARY_SIZE = "binary_data_output", "binary_data", "binary_data_size"
REQUEST_PARAMETERS = {BINARY_OUTPUT: bool, TIMEOUT: int}
JSON_DATA_HINT = "send tensors as binary data"


def decode(model: str, version: str, body: bytes, json_length: str, max_json: int) -> InferRequest:
    """Parse and check the body of a request; `json_length` is the header `Inference-Header-Content-Length`.

    Raises:
        InvalidRequest: the request is malformed, or has a field or parameter that is not supported.
        TooLarge: the JSON has more than `max_json` bytes.
    """
    length = _json_length(json_length, len(body))
    if length > max_json:
        raise TooLarge(f"the JSON has {length} bytes; at most {max_json}: {JSON_DATA_HINT}")
    values = _json_object(memoryview(body)[:length])
    _check_fields(values, ("id", "parameters", "inputs", "outputs", "model_name", "model_version"), "the request")
    for field, expected in (("model_name", model), ("model_version", version)):  # some clients repeat the path
        if (given := _typed(values, field, str, "")) and expected and given != expected:
            raise InvalidRequest(f"{field} is {given!r}; the path names {expected!r}", param=field)
    request_id = _typed(values, "id", str, "")
    if len(request_id) > MAX_ID:
        raise InvalidRequest(f"id has {len(request_id)} characters; at most {MAX_ID}", param="id")
    parameters = _parameters(values, "the request")
    check_parameters(parameters, REQUEST_PARAMETERS, "the request")
    inputs = _typed(values, "inputs", list, [])
    if not inputs:
        raise InvalidRequest("inputs is missing or empty", param="inputs")
    return InferRequest(
        model,
        version,
        request_id,
        _inputs(inputs, memoryview(body)[length:]),
        _outputs(_typed(values, "outputs", list, [])),
        timeout_seconds(parameters),
        parameters.get(BINARY_OUTPUT, False),
    )


def encode(
    request: InferRequest, model: str, version: str, outputs: Sequence[Tensor], max_json: int
) -> tuple[bytes, int | None]:
    """Return the body of a response, and the length of its JSON if binary data follows it.

    Raises:
        InvalidRequest: a tensor cannot be represented in JSON, or is too large for it.
    """
    choices = {output.name: output.binary for output in request.outputs}
    described, binary = [], []
    for tensor in outputs:
        item: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if choices.get(tensor.name, False) or (tensor.name not in choices and request.binary_outputs):
            item["parameters"] = {BINARY_SIZE: len(tensor.data)}
            binary.append(tensor.data)
        else:
            if 2 * element_count(tensor.shape) > max_json:  # an element has a digit and a comma at least
                raise _too_large_for_json(max_json)
            item["data"] = to_json(tensor)
        described.append(item)
    values: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": described}
    if request.id:
        values["id"] = request.id
    text = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
    if len(text) > max_json:
        raise _too_large_for_json(max_json)
    return (b"".join([text, *binary]), len(text)) if binary else (text, None)


def _too_large_for_json(max_json: int) -> InvalidRequest:
    message = f"the outputs have more than {max_json} bytes of JSON: request them with the parameter {BINARY}"
    return InvalidRequest(message, param="outputs")


def _json_length(text: str, size: int) -> int:
    if not text:
        return size
    if not (text.isascii() and text.isdigit()) or int(text) > size:
        raise InvalidRequest(f"Inference-Header-Content-Length is {text[:20]!r}; the body has {size} bytes")
    return int(text)


def _json_object(text: memoryview) -> dict[str, Any]:
    try:
        values = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the request is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise InvalidRequest("the request is not a JSON object")
    return values


def _inputs(items: list[Any], binary: memoryview) -> tuple[Tensor, ...]:
    tensors, offset = [], 0
    for item in items:
        if not isinstance(item, dict):
            raise InvalidRequest("each of inputs is a JSON object", param="inputs")
        name = _typed(item, "name", str, "")
        _check_fields(item, ("name", "shape", "datatype", "parameters", "data"), f"the input {name!r}")
        tensor, size = _input(name, item, binary[offset:])
        tensors.append(tensor)
        offset += size
    check_names([tensor.name for tensor in tensors], "input")
    if offset != len(binary):
        raise InvalidRequest(
            f"the body has {len(binary)} bytes of binary data; the inputs have {offset}", param="inputs"
        )
    return tuple(tensors)


def _input(name: str, item: dict[str, Any], binary: memoryview) -> tuple[Tensor, int]:
    """Return an input and the bytes that it takes of the binary data."""
    datatype, shape = _typed(item, "datatype", str, ""), _shape(name, item)
    if datatype not in DATATYPES:
        message = f"the input {name!r} has the datatype {datatype!r}; it can be {', '.join(DATATYPES)}"
        raise InvalidRequest(message, param="inputs")
    parameters = _parameters(item, f"the input {name!r}")
    check_parameters(parameters, {BINARY_SIZE: int}, f"the input {name!r}")
    size = parameters.get(BINARY_SIZE)
    try:
        if size is None:
            if "data" not in item:
                raise InvalidRequest(f"the input {name!r} has neither data nor {BINARY_SIZE}", param="inputs")
            return Tensor(name, datatype, shape, from_json(name, datatype, shape, item["data"])), 0
        if "data" in item:
            raise InvalidRequest(f"the input {name!r} has data and {BINARY_SIZE}; give one of them", param="inputs")
        if not 0 <= size <= len(binary):
            message = f"the input {name!r} has {BINARY_SIZE} {size}; {len(binary)} bytes are left in the body"
            raise InvalidRequest(message, param="inputs")
        check_data(datatype, shape, binary[:size])
    except TensorError as error:
        raise InvalidRequest(f"the input {name!r}: {error}", param="inputs") from None
    return Tensor(name, datatype, shape, binary[:size]), size


def _shape(name: str, item: dict[str, Any]) -> tuple[int, ...]:
    shape = _typed(item, "shape", list, None)
    if shape is None or any(not isinstance(size, int) or isinstance(size, bool) for size in shape):
        raise InvalidRequest(f"the input {name!r} has no shape, or one that is not a list of integers", param="inputs")
    try:
        element_count(shape)
    except TensorError as error:
        raise InvalidRequest(f"the input {name!r}: {error}", param="inputs") from None
    return tuple(shape)


def _outputs(items: list[Any]) -> tuple[RequestedOutput, ...]:
    outputs = []
    for item in items:
        if not isinstance(item, dict):
            raise InvalidRequest("each of outputs is a JSON object", param="outputs")
        name = _typed(item, "name", str, "")
        _check_fields(item, ("name", "parameters"), f"the output {name!r}")
        parameters = _parameters(item, f"the output {name!r}")
        check_parameters(parameters, {BINARY: bool}, f"the output {name!r}")
        outputs.append(RequestedOutput(name, parameters.get(BINARY, False)))
    check_names([output.name for output in outputs], "output")
    return tuple(outputs)


def _parameters(values: dict[str, Any], where: str) -> dict[str, Any]:
    parameters = _typed(values, "parameters", dict, {})
    for name, value in parameters.items():
        if not isinstance(value, str | int | float | bool):
            raise InvalidRequest(f"the parameter {name!r} of {where} is not a string, number or boolean", param=name)
    result: dict[str, Any] = parameters
    return result


def _typed(values: dict[str, Any], name: str, expected: type, default: Any) -> Any:
    value = values.get(name)
    if value is None:
        return default
    if not isinstance(value, expected):
        kind = "a list" if expected is list else "an object" if expected is dict else "a string"
        raise InvalidRequest(f"{name} is not {kind}", param=name)
    return value


def _check_fields(values: dict[str, Any], known: Sequence[str], where: str) -> None:
    if unknown := [name for name in values if name not in known]:
        raise InvalidRequest(
            f"{unknown[0]!r} is not a field of {where}; there are: {', '.join(known)}", param=unknown[0]
        )
