"""Sample values of each data type: as JSON, and in the binary encoding."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

FORMATS = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
SAMPLES: dict[str, list[Any]] = {
    "BOOL": [True, False, False, True],
    "UINT8": [0, 1, 200, 255],
    "UINT16": [0, 1, 40_000, 65_535],
    "UINT32": [0, 1, 3_000_000_000, 4_294_967_295],
    "UINT64": [0, 1, 9_007_199_254_740_993, 18_446_744_073_709_551_615],
    "INT8": [-128, -1, 0, 127],
    "INT16": [-32_768, -1, 0, 32_767],
    "INT32": [-2_147_483_648, -1, 0, 2_147_483_647],
    "INT64": [-9_223_372_036_854_775_808, -9_007_199_254_740_993, 0, 9_223_372_036_854_775_807],
    "FP16": [0.0, -1.5, 0.333251953125, 65504.0],
    "BF16": [0.0, -1.5, 3.140625, 1e38],
    "FP32": [0.0, -1.5, 3.1415927410125732, 3.4028234663852886e38],
    "FP64": [0.0, -1.5, 3.141592653589793, 1e308],
    "BYTES": ["", "a", "two words", "Zürich \u20ac"],
}
"""Four values of each data type, with its limits."""
NOT_JSON = ("FP16", "BF16")
"""The specification leaves their JSON form open, so that the suite sends and reads them only as binary data."""


def encode(datatype: str, values: Sequence[Any]) -> bytes:
    """Return values in the binary encoding."""
    if datatype == "BYTES":
        encoded = [value if isinstance(value, bytes) else value.encode() for value in values]
        return b"".join(struct.pack("<I", len(value)) + value for value in encoded)
    if datatype == "BF16":
        return b"".join(struct.pack("<f", value)[2:] for value in values)
    return struct.pack(f"<{len(values)}{FORMATS[datatype]}", *values)


def decode(datatype: str, data: bytes) -> list[Any]:
    """Return the values of binary data."""
    if datatype == "BYTES":
        values, offset = [], 0
        while offset < len(data):
            (size,) = struct.unpack_from("<I", data, offset)
            values.append(data[offset + 4 : offset + 4 + size].decode())
            offset += 4 + size
        return values
    if datatype == "BF16":
        return [struct.unpack("<f", b"\x00\x00" + data[at : at + 2])[0] for at in range(0, len(data), 2)]
    return list(struct.unpack(f"<{len(data) // struct.calcsize(FORMATS[datatype])}{FORMATS[datatype]}", data))


def samples(datatype: str) -> list[Any]:
    """Return four values that the binary encoding represents exactly."""
    return decode(datatype, encode(datatype, SAMPLES[datatype]))


def flat(data: Any) -> list[Any]:
    """Return the elements of a nested or flat list in row-major order."""
    return [value for item in data for value in flat(item)] if isinstance(data, list) else [data]
