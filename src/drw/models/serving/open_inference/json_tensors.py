"""Conversion between tensors and their JSON representation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from drw.kernel.errors import InvalidRequest
from drw.tensors.datatypes import (
    BF16,
    BOOL,
    BYTES,
    FLOATS,
    NUMPY,
    Tensor,
    element_count,
    elements,
    encoded,
    from_bfloat16,
    to_bfloat16,
)

MAX_NESTING = 32


def from_json(name: str, datatype: str, shape: Sequence[int], data: Any) -> bytes:
    """Return the elements of a tensor, nested or flat in row-major order, in the binary encoding.

    Raises:
        InvalidRequest: the values do not match the data type or the shape.
    """
    count = element_count(shape)
    if not isinstance(data, list):
        raise _invalid(name, "data is not a list")
    if datatype == BYTES:
        texts = list(_flat(name, data, shape, 0))
        _check_count(name, len(texts), shape, count)
        return encoded(text.encode() for text in texts)
    try:
        array = np.array(data) if data else np.empty((0,), NUMPY[datatype])
    except (ValueError, OverflowError):
        raise _invalid(name, "data is not a regular array of numbers") from None
    if array.ndim > 1 and array.shape != tuple(shape):
        raise _invalid(name, f"data is nested as {list(array.shape)}; the shape is {list(shape)}")
    _check_count(name, array.size, shape, count)
    data_bytes: bytes = _typed(name, datatype, array.ravel(), data).tobytes()
    return data_bytes


def to_json(tensor: Tensor) -> Any:
    """Return the elements of a tensor as a flat list or array that can be written as JSON.

    Raises:
        InvalidRequest: there are values that JSON cannot represent: NaN or infinity.
    """
    if tensor.datatype == BYTES:
        return [value.decode(errors="replace") for value in elements(tensor.data)]
    array = np.frombuffer(tensor.data, NUMPY[tensor.datatype])
    if tensor.datatype == BF16:
        array = from_bfloat16(array)
    if tensor.datatype in FLOATS and not np.isfinite(array).all():
        message = f"the output {tensor.name!r} has NaN or infinite values, which JSON cannot represent"
        raise InvalidRequest(f"{message}: request it with the parameter binary_data", param="outputs")
    return array


def _typed(name: str, datatype: str, array: Any, data: Any) -> Any:
    kind = array.dtype.kind
    if datatype == BOOL:
        if array.size and kind != "b":
            raise _invalid(name, "data has values that are not true or false")
        return array.astype(np.bool_)
    if datatype in FLOATS:
        return _floats(name, datatype, array)
    if array.size and kind in "fO":  # NumPy has no common type of large unsigned and of other integers
        array = np.array(data, dtype=object).ravel()
        if any(type(value) is not int for value in array):
            raise _invalid(name, f"data has values that are not integers of {datatype}")
    elif array.size and kind not in "iu":
        raise _invalid(name, f"data has values that are not integers of {datatype}")
    limits = np.iinfo(NUMPY[datatype])
    if array.size and (int(array.min()) < limits.min or int(array.max()) > limits.max):
        raise _invalid(name, f"data has values outside of {datatype}: {limits.min} to {limits.max}")
    return array.astype(NUMPY[datatype])


def _floats(name: str, datatype: str, array: Any) -> Any:
    if array.size and array.dtype.kind not in "fiu":
        raise _invalid(name, "data has values that are not numbers")
    with np.errstate(over="ignore"):
        typed = array.astype(np.float32 if datatype == BF16 else NUMPY[datatype])
        result = to_bfloat16(typed) if datatype == BF16 else typed
    if not np.isfinite(from_bfloat16(result) if datatype == BF16 else result).all():
        raise _invalid(name, f"data has values outside of {datatype}")
    return result


def _flat(name: str, data: list[Any], shape: Sequence[int], depth: int) -> Iterator[str]:
    """Yield the strings of a nested or flat list."""
    if depth > MAX_NESTING:
        raise _invalid(name, f"data is nested deeper than {MAX_NESTING} lists")
    nested = depth > 0 or any(isinstance(item, list) for item in data)
    if nested and (depth >= len(shape) or len(data) != shape[depth]):
        raise _invalid(name, f"data is not nested as its shape {list(shape)}")
    for item in data:
        if isinstance(item, list):
            yield from _flat(name, item, shape, depth + 1)
        elif not isinstance(item, str):
            raise _invalid(name, "data has values that are not strings")
        elif nested and depth != len(shape) - 1:
            raise _invalid(name, f"data is not nested as its shape {list(shape)}")
        else:
            yield item


def _check_count(name: str, found: int, shape: Sequence[int], expected: int) -> None:
    if found != expected:
        raise _invalid(name, f"data has {found} elements; the shape {list(shape)} has {expected}")


def _invalid(name: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"the input {name!r}: {problem}", param="inputs")
