"""Data types of the Open Inference Protocol and their encoding as bytes.

Source: open-inference-protocol, specification/protocol/inference_rest.md ("Tensor Data Types"), and the binary tensor
data extension: little endian, row-major; an element of BYTES has its length in four bytes before it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BYTES, BOOL, BF16 = "BYTES", "BOOL", "BF16"
NUMPY: dict[str, Any] = {
    BOOL: np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.int8,
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    BF16: np.dtype("<u2"),
}
"""The array type of each data type. NumPy has no bfloat16: its bits are in 16-bit integers."""
SIZES = {name: np.dtype(array_type).itemsize for name, array_type in NUMPY.items()}
DATATYPES = (*NUMPY, BYTES)
FLOATS = ("FP16", BF16, "FP32", "FP64")
MAX_DIMENSIONS = 32
MAX_ELEMENTS = 1 << 40
LENGTH = struct.Struct("<I")


class TensorError(ValueError):
    """A tensor does not match its data type or shape."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a model. A dimension is -1 if it varies; dimensions of one name vary together."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    symbols: tuple[str, ...] = ()
    """The name of each dimension; empty if it has none."""

    @property
    def batch_symbol(self) -> str:
        """The name of the first dimension if it varies, otherwise empty."""
        return self.symbols[0] if self.symbols and self.shape[0] < 0 else ""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor with its elements in the binary encoding."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | memoryview

    @property
    def rows(self) -> int:
        """The size of the first dimension; 1 for a scalar."""
        return self.shape[0] if self.shape else 1


def element_count(shape: Sequence[int]) -> int:
    """Return the number of elements of a shape.

    Raises:
        TensorError: too many dimensions or elements, or a negative dimension.
    """
    if len(shape) > MAX_DIMENSIONS:
        raise TensorError(f"the shape has {len(shape)} dimensions; at most {MAX_DIMENSIONS}")
    if any(size < 0 for size in shape):
        raise TensorError(f"the shape {list(shape)} has a negative dimension")
    if (count := math.prod(shape)) > MAX_ELEMENTS:
        raise TensorError(f"the shape {list(shape)} has more than {MAX_ELEMENTS} elements")
    return count


def check_data(datatype: str, shape: Sequence[int], data: bytes | memoryview) -> None:
    """Raise `TensorError` if the bytes are not exactly the elements of the shape."""
    count = element_count(shape)
    if datatype not in DATATYPES:
        raise TensorError(f"the datatype is {datatype!r}; it can be {', '.join(DATATYPES)}")
    if datatype == BYTES:
        if (found := len(element_offsets(data)) - 1) != count:
            raise TensorError(f"the data has {found} elements; the shape {list(shape)} has {count}")
    elif len(data) != (expected := count * SIZES[datatype]):
        raise TensorError(f"the data has {len(data)} bytes; {datatype} of the shape {list(shape)} has {expected}")
    elif datatype == BOOL and count and np.frombuffer(data, np.uint8).max() > 1:
        raise TensorError("the data has bytes above 1; each element of BOOL is 0 or 1")


def element_offsets(data: bytes | memoryview) -> list[int]:
    """Return the offset of each element of encoded BYTES, and the end.

    Raises:
        TensorError: the encoding is incomplete.
    """
    offsets, offset, size = [0], 0, len(data)
    while offset < size:
        if size - offset < LENGTH.size:
            raise TensorError("the data of BYTES ends inside of the length of an element")
        offset += LENGTH.size + LENGTH.unpack_from(data, offset)[0]
        if offset > size:
            raise TensorError("an element of BYTES is longer than the data")
        offsets.append(offset)
    return offsets


def elements(data: bytes | memoryview) -> list[bytes]:
    """Return the elements of encoded BYTES; raises as `element_offsets`."""
    offsets = element_offsets(data)
    return [bytes(data[at + LENGTH.size : end]) for at, end in zip(offsets, offsets[1:], strict=False)]


def encoded(values: Iterable[bytes]) -> bytes:
    """Return elements of BYTES in the binary encoding."""
    return b"".join(LENGTH.pack(len(value)) + value for value in values)


def to_bfloat16(values: Any) -> Any:
    """Return the bits of 32-bit floats as bfloat16, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def from_bfloat16(bits: Any) -> Any:
    """Return bfloat16 as 32-bit floats."""
    return (np.asarray(bits, np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
