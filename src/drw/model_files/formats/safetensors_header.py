"""Safetensors header parser: dtypes, shapes and offsets, without tensor data.

Format: https://github.com/huggingface/safetensors#format. The tensors must fill the file without gaps or overlaps.
"""

from __future__ import annotations

import math
from typing import Any

from drw.model_files import strict_json
from drw.model_files.description import Description, Header, counted, text, texts
from drw.model_files.errors import ModelRejected
from drw.model_files.formats.reader import Reader
from drw.model_files.limits import Limits

LENGTH = 8
METADATA = "__metadata__"
FIELDS = {"dtype", "shape", "data_offsets"}
BITS = {
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
"""Bits of an element."""


def parse(reader: Reader, limits: Limits) -> Header:
    """Return the description of a safetensors file.

    Raises:
        ModelRejected: the header is malformed, exceeds a limit, or does not match the size of the file.
    """
    path = reader.path
    length = int.from_bytes(reader.read(0, LENGTH), "little")
    data = reader.size - LENGTH - length
    if length > limits.safetensors_header_bytes:
        raise ModelRejected(
            f"{path} declares a header of {length:,} bytes; the maximum is {limits.safetensors_header_bytes:,}"
        )
    if data < 0:
        raise ModelRejected(f"{path} declares a header of {length:,} bytes but has {reader.size:,}: it is truncated")
    entries = _entries(path, reader.read(LENGTH, length))
    metadata = entries.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModelRejected(f"{path}: {METADATA} must map texts to texts")
    if len(entries) > limits.tensors:
        raise ModelRejected(f"{path} has {len(entries):,} tensors; the maximum is {limits.tensors:,}")
    spans = sorted(_span(path, name, entry, limits) for name, entry in entries.items())
    _check_spans(path, spans, data)
    description = Description(
        format="safetensors",
        parameters=sum(math.prod(entry["shape"]) for entry in entries.values()),
        tensors=len(entries),
        dtypes=counted(entry["dtype"] for entry in entries.values()),
        licence=text(metadata.get("license") or metadata.get("modelspec.license")),
        architecture=text(metadata.get("modelspec.architecture")),
        datasets=texts(metadata.get("datasets")),
    )
    return Header(description, frozenset(entries))


def _entries(path: str, header: bytes) -> dict[str, Any]:
    if not header.startswith(b"{"):
        raise ModelRejected(f"{path}: the header does not begin with '{{'")
    try:
        value = strict_json.load(header)
    except strict_json.NotStrictJson as error:
        raise ModelRejected(f"{path}: the header is malformed: {error}") from error
    entries: dict[str, Any] = value
    return entries


def _span(path: str, name: str, entry: Any, limits: Limits) -> tuple[int, int, str]:
    """Return begin, end and name of a tensor whose size matches its dtype and shape."""
    at = f"{path}: tensor {name[:100]!r}"
    if not isinstance(entry, dict) or entry.keys() != FIELDS:
        raise ModelRejected(f"{at} must have the fields dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ModelRejected(f"{at} has the unknown dtype {str(dtype)[:40]!r}")
    if not _naturals(shape) or len(shape) > limits.tensor_dimensions:
        raise ModelRejected(f"{at} has an invalid shape")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ModelRejected(f"{at} has invalid data_offsets")
    bits = math.prod(shape) * BITS[dtype]
    if bits != (offsets[1] - offsets[0]) * 8:
        raise ModelRejected(
            f"{at} takes {offsets[1] - offsets[0]:,} bytes, which does not match {dtype} of shape {shape[:8]}"
        )
    return offsets[0], offsets[1], name


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _check_spans(path: str, spans: list[tuple[int, int, str]], data: int) -> None:
    end = 0
    for begin, stop, name in spans:
        if begin != end:
            kind = "overlaps another tensor" if begin < end else "follows a gap"
            raise ModelRejected(f"{path}: tensor {name[:100]!r} at byte {begin:,} {kind}")
        end = stop
    if end != data:
        raise ModelRejected(f"{path} has {data:,} bytes of tensor data, but its tensors take {end:,}")
