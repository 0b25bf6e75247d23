"""GGUF header parser: metadata and tensor descriptions, without tensor data.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import re
from typing import Any

from drw.model_files.description import Description, Header, count, counted, text, texts
from drw.model_files.errors import ModelRejected
from drw.model_files.formats.reader import Cursor, Reader
from drw.model_files.limits import Limits

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""`struct` codes of the scalar types."""
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
MAX_KEPT_ITEMS = 100
MAX_NAME = 64
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 20
KEY = re.compile(r"[!-~]{1,256}")
TEMPLATE = "tokenizer.chat_template"

TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
"""Name, elements of a block and bytes of a block. A test compares it with the package `gguf`, which loads slowly."""


MAX_CACHE_TOKEN_BYTES = 1 << 30
"""Larger values are not of a real model."""


def parse(reader: Reader, limits: Limits) -> Header:
    """Return the description of a GGUF file.

    Raises:
        ModelRejected: the header is malformed, exceeds a limit, or does not match the size of the file.
    """
    return _Parser(reader, limits).parse()


class _Parser:
    def __init__(self, reader: Reader, limits: Limits) -> None:
        self._reader = reader
        self._limits = limits
        self._path = reader.path
        self._cursor = Cursor(reader, limits.metadata_bytes)
        self._items = 0

    def parse(self) -> Header:
        cursor = self._cursor
        if cursor.take(4) != MAGIC:
            raise ModelRejected(f"{self._path} does not begin with the magic number of GGUF")
        version = cursor.u32()
        if version not in VERSIONS:
            big = int.from_bytes(version.to_bytes(4, "big"), "little") in VERSIONS
            raise ModelRejected(
                f"{self._path} is big-endian GGUF; only little-endian is supported"
                if big
                else f"{self._path} has GGUF version {version}; supported are 2 and 3"
            )
        tensors, entries = cursor.u64(), cursor.u64()
        self._bound(tensors, self._limits.tensors, "tensors")
        self._bound(entries, self._limits.metadata_entries, "metadata entries")
        metadata = self._metadata(entries)
        names, dtypes, parameters = self._tensors(tensors, self._alignment(metadata))
        return self._header(metadata, names, dtypes, parameters)

    def _bound(self, value: int, maximum: int, of: str) -> None:
        if value > maximum:
            raise ModelRejected(f"{self._path} declares {value:,} {of}; the maximum is {maximum:,}")

    def _string(self, maximum: int, of: str) -> bytes:
        length = self._cursor.u64()
        self._bound(length, maximum, f"bytes of {of}")
        return self._cursor.take(length)

    def _decoded(self, data: bytes, of: str) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise ModelRejected(f"{self._path} has {of} that is not UTF-8") from error

    def _metadata(self, entries: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        for _ in range(entries):
            key = self._decoded(self._string(256, "a metadata key"), "a metadata key")
            if not KEY.fullmatch(key):
                raise ModelRejected(f"{self._path} has the metadata key {key[:60]!r}; keys are printable ASCII")
            if key in metadata:
                raise ModelRejected(f"{self._path} has the metadata key {key!r} twice")
            metadata[key] = self._value(self._cursor.u32(), key)
        return metadata

    def _value(self, kind: int, key: str) -> Any:
        if kind == STRING:
            length = self._cursor.u64()
            self._bound(length, self._limits.string_bytes, f"bytes of {key!r}")
            if length > self._limits.kept_string_bytes:
                if key.startswith((TEMPLATE, "general.")):
                    raise ModelRejected(f"{self._path} has {length:,} bytes of {key!r}; the maximum is 1 MiB")
                self._cursor.skip(length)
                return None
            return self._decoded(self._cursor.take(length), f"a value of {key!r}")
        if kind == ARRAY:
            return self._array(key)
        if kind == 7 and (flag := self._cursor.take(1)[0]) in (0, 1):
            return bool(flag)
        if kind == 7 or kind not in CODES:
            raise ModelRejected(f"{self._path} has an invalid value or type ({kind}) at {key!r}")
        return self._cursor.unpack(CODES[kind])

    def _array(self, key: str) -> list[Any] | None:
        kind, length = self._cursor.u32(), self._cursor.u64()
        if kind == ARRAY:
            raise ModelRejected(f"{self._path} has an array of arrays at {key!r}; llama.cpp does not read them")
        if kind != STRING and kind not in WIDTHS:
            raise ModelRejected(f"{self._path} has an array of the invalid type {kind} at {key!r}")
        self._bound(length, self._limits.array_items, f"items of {key!r}")
        if kind != STRING:
            self._cursor.skip(length * WIDTHS[kind])
            return None
        self._items += length
        self._bound(self._items, self._limits.array_items, "texts in arrays")
        kept: list[str] = []
        for _ in range(length):
            size = self._cursor.u64()
            self._bound(size, self._limits.string_bytes, f"bytes of an item of {key!r}")
            if key.startswith("general.") and len(kept) < MAX_KEPT_ITEMS and size <= 4096:
                kept.append(self._decoded(self._cursor.take(size), f"an item of {key!r}"))
            else:
                self._cursor.skip(size)
        return kept

    def _alignment(self, metadata: dict[str, Any]) -> int:
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            raise ModelRejected(f"{self._path} has general.alignment {alignment!r}; it must be a power of two")
        return alignment

    def _tensors(self, number: int, alignment: int) -> tuple[frozenset[str], list[str], int]:
        names: set[str] = set()
        dtypes: list[str] = []
        parameters = expected = last = 0
        for _ in range(number):
            name = self._decoded(self._string(MAX_NAME, "a tensor name"), "a tensor name")
            if name in names:
                raise ModelRejected(f"{self._path} has the tensor {name!r} twice")
            names.add(name)
            shape = self._shape(name)
            kind, offset = self._cursor.u32(), self._cursor.u64()
            if kind not in TENSOR_TYPES:
                raise ModelRejected(f"{self._path}: tensor {name!r} has the unknown type {kind}")
            dtype, block, width = TENSOR_TYPES[kind]
            if shape[0] % block:
                raise ModelRejected(f"{self._path}: a row of {name!r} has {shape[0]} elements; {dtype} packs {block}")
            if offset != expected:
                raise ModelRejected(
                    f"{self._path}: tensor {name!r} is at offset {offset:,}, not at {expected:,}: "
                    "tensors must follow each other without gaps or overlaps"
                )
            elements = math.prod(shape)
            last = offset + elements // block * width
            expected = -(-last // alignment) * alignment
            parameters += elements
            dtypes.append(dtype)
        self._check_end(last, expected, alignment if number else 0)
        return frozenset(names), dtypes, parameters

    def _shape(self, name: str) -> list[int]:
        dimensions = self._cursor.u32()
        if not 0 < dimensions <= MAX_DIMENSIONS:
            raise ModelRejected(f"{self._path}: tensor {name!r} has {dimensions} dimensions; 1 to 4 are permitted")
        shape = [self._cursor.u64() for _ in range(dimensions)]
        if 0 in shape or math.prod(shape) >= 1 << 56:
            raise ModelRejected(f"{self._path}: tensor {name!r} has the impossible shape {shape}")
        return shape

    def _check_end(self, last: int, padded: int, alignment: int) -> None:
        start = -(-self._cursor.at // alignment) * alignment if alignment else self._cursor.at
        if start + last > self._reader.size:
            missing = start + last - self._reader.size
            raise ModelRejected(f"{self._path} lacks {missing:,} bytes of tensor data: the file is truncated")
        if self._reader.size > start + padded:
            extra = self._reader.size - start - padded
            raise ModelRejected(f"{self._path} has {extra:,} bytes after its last tensor that belong to none")

    def _header(self, metadata: dict[str, Any], names: frozenset[str], dtypes: list[str], parameters: int) -> Header:
        architecture = text(metadata.get("general.architecture"))
        if not architecture and not count(metadata.get("split.no")):
            raise ModelRejected(f"{self._path} has no general.architecture")
        templates = {key: value for key, value in metadata.items() if key.startswith(TEMPLATE) and value is not None}
        if wrong := [key for key, value in templates.items() if key != f"{TEMPLATE}s" and not isinstance(value, str)]:
            raise ModelRejected(f"{self._path} has {wrong[0]!r} that is not a text")
        base = [value for key, value in metadata.items() if re.fullmatch(r"general\.base_model\.\d+\.repo_url", key)]
        data = [value for key, value in metadata.items() if re.fullmatch(r"general\.dataset\.\d+\.name", key)]
        description = Description(
            format="gguf",
            architecture=architecture,
            parameters=parameters,
            tensors=len(dtypes),
            dtypes=counted(dtypes),
            context_length=count(metadata.get(f"{architecture}.context_length")),
            cache_token_bytes=_cache_token_bytes(metadata, architecture),
            tokenizer=text(metadata.get("tokenizer.ggml.model")),
            chat_template=templates.get(TEMPLATE, ""),
            licence=text(metadata.get("general.license")),
            datasets=texts(metadata.get("general.datasets")) or texts(data),
            base_models=texts(base),
        )
        named = [
            (key.removeprefix(TEMPLATE).lstrip(".") or "default", value)
            for key, value in templates.items()
            if isinstance(value, str) and value
        ]
        return Header(description, names, tuple(named))


def _cache_token_bytes(metadata: dict[str, Any], architecture: str) -> int:
    def number(name: str) -> int:
        return count(metadata.get(f"{architecture}.{name}"))

    heads = number("attention.head_count")
    width = number("embedding_length") // heads if heads else 0
    key, value = (number(f"attention.{name}_length") or width for name in ("key", "value"))
    # The number of heads can differ by layer: an array, which is not read.
    size = 2 * number("block_count") * (number("attention.head_count_kv") or heads) * (key + value)
    return min(size, MAX_CACHE_TOKEN_BYTES)
