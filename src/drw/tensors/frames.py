"""Frames between serving and a model process: a JSON header and the bytes of tensors, both with their length first."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

from drw.tensors.datatypes import Tensor, TensorError, TensorSpec, check_data

PREFIX = struct.Struct("<IQ")
MAX_HEADER_BYTES = 16 << 20
MAX_BODY_BYTES = 1 << 31
Header = dict[str, Any]


class FrameError(Exception):
    """The other side sent something that is not a frame."""


def encode(header: Header, tensors: Sequence[Tensor] = ()) -> list[bytes | memoryview]:
    """Return the parts of a frame with tensors."""
    described = [[t.name, t.datatype, list(t.shape), len(t.data)] for t in tensors]
    text = json.dumps({**header, "tensors": described}).encode()
    return [PREFIX.pack(len(text), sum(len(t.data) for t in tensors)), text, *(t.data for t in tensors)]


def lengths(prefix: bytes) -> tuple[int, int]:
    """Return the bytes of header and body of a frame.

    Raises:
        FrameError: they exceed the maximum.
    """
    header, body = PREFIX.unpack(prefix)
    if header > MAX_HEADER_BYTES or body > MAX_BODY_BYTES:
        raise FrameError(f"a frame of {header} and {body} bytes")
    return header, body


def decode(header: bytes, body: bytes | memoryview) -> tuple[Header, tuple[Tensor, ...]]:
    """Return the header and the tensors of a frame; every tensor has been checked.

    Raises:
        FrameError: the frame is malformed.
    """
    try:
        values = json.loads(header)
        view, offset, tensors = memoryview(body), 0, []
        for name, datatype, shape, size in values.pop("tensors"):
            data = view[offset : offset + size]
            check_data(datatype, shape, data)
            tensors.append(Tensor(name, datatype, tuple(shape), data))
            offset += size
    except (ValueError, TypeError, KeyError, AttributeError, TensorError) as error:
        raise FrameError(f"a malformed frame: {error}") from error
    if offset != len(view):
        raise FrameError(f"a frame with {len(view) - offset} more bytes than its tensors")
    return values, tuple(tensors)


def spec_to_json(spec: TensorSpec) -> list[Any]:
    """Return an input or output of a model for a header."""
    return [spec.name, spec.datatype, list(spec.shape), list(spec.symbols)]


def spec_from_json(value: list[Any]) -> TensorSpec:
    """Return an input or output of a model from a header."""
    name, datatype, shape, symbols = value
    return TensorSpec(name, datatype, tuple(shape), tuple(symbols))
