"""ONNX parser: graph signature, operators and tensor sizes, without tensor data.

Descriptors come from the package `onnx`. Shape inference, functions and tensors are never evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TypeVar

from drw.model_files.description import (
    Description,
    Header,
    TensorSignature,
    count,
    counted,
    text,
    texts,
)
from drw.model_files.errors import ModelRejected
from drw.model_files.formats.protobuf_wire import Field, Walker
from drw.model_files.formats.reader import Reader
from drw.model_files.limits import Limits

DOMAINS = frozenset(("", "ai.onnx", "ai.onnx.ml", "com.microsoft"))
"""Operator domains that ONNX Runtime implements itself. Others need a library of custom operators."""
FORBIDDEN = frozenset((("com.microsoft", "EPContext"), ("com.microsoft", "PyOp"), ("", "PythonOp")))
"""Operators that load compiled code or Python."""
EXTERNAL_KEYS = frozenset(("location", "offset", "length", "checksum"))
EXTERNAL = 1
STRING = 8
MAX_SIGNATURE = 1000
"""Inputs, and outputs, of the graph."""
MAX_OPERATORS = 10_000
"""Different operators, functions or domains."""
METADATA = frozenset(("architecture", "model_type", "context_length", "license", "licence", "datasets"))
"""Keys of the metadata that the description uses."""
T = TypeVar("T")
BITS = {
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),
    **dict.fromkeys((4, 5, 10, 16), 16),
    **dict.fromkeys((1, 6, 12), 32),
    **dict.fromkeys((7, 11, 13, 14), 64),
    15: 128,
    **dict.fromkeys((21, 22, 23), 4),
    **dict.fromkeys((25, 26), 2),
    **dict.fromkeys((27, 28), 6),
}
"""Bits of an element by `TensorProto.DataType`."""


def parse(reader: Reader, limits: Limits, sizes: Mapping[str, int], domains: Collection[str] = DOMAINS) -> Header:
    """Return the description of an ONNX file.

    Args:
        sizes: the sizes of all files of the model by path, for external data.
        domains: permitted operator domains.

    Raises:
        ModelRejected: the file is malformed, exceeds a limit, uses an operator that is not permitted, or refers to
            external data outside the model.
    """
    if reader.size > limits.onnx_bytes:
        raise ModelRejected(f"{reader.path} has {reader.size:,} bytes; an ONNX file has at most {limits.onnx_bytes:,}")
    return _Parser(reader, limits, sizes, domains).parse()


@dataclass(slots=True)
class _Tensor:
    name: str = ""
    dims: list[int] = field(default_factory=list)
    data_type: int = 0
    raw: int = -1
    values: bool = False
    location: int = 0
    external: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Value:
    name: str = ""
    dtype: str = ""
    shape: tuple[int | str, ...] | None = None


class _Parser:
    def __init__(self, reader: Reader, limits: Limits, sizes: Mapping[str, int], domains: Collection[str]) -> None:
        from onnx import ModelProto, TensorProto  # takes 0.2 s

        self._model = ModelProto.DESCRIPTOR
        self._names: dict[int, str] = {number: name.lower() for name, number in TensorProto.DataType.items()}
        self._reader = reader
        self._path = reader.path
        self._limits = limits
        self._sizes = sizes
        self._domains = domains
        self._walker = Walker(reader, limits.onnx_fields)
        self._dtypes: list[str] = []
        self._parameters = 0
        self._operators: set[tuple[str, str]] = set()
        self._functions: set[tuple[str, str]] = set()
        self._imports: set[str] = set()
        self._metadata: dict[str, str] = {}
        self._external: set[str] = set()
        self._inputs: list[TensorSignature] = []
        self._outputs: list[TensorSignature] = []
        self._initializers: set[str] = set()

    def parse(self) -> Header:
        has_graph = has_version = False
        for item in self._walker.fields(self._model, 0, self._reader.size):
            match item.name:
                case "ir_version":
                    has_version = True
                case "graph":
                    has_graph = True
                    self._visit(item, 1, main=True)
                case "metadata_props":
                    key, value = self._pair(item)
                    if key in METADATA:
                        self._metadata[key] = value
                case "training_info":
                    raise ModelRejected(f"{self._path} has training information; export the model for inference")
                case _ if item.type.message is not None:
                    self._visit(item, 1)
        if not has_graph or not has_version:
            raise ModelRejected(f"{self._path} is not a valid ONNX file: it has no graph or no IR version")
        self._check_operators()
        return self._header()

    def _visit(self, item: Field, depth: int, *, main: bool = False) -> None:
        """Check a message and all messages inside it."""
        if depth > self._limits.onnx_depth:
            raise ModelRejected(f"{self._path} nests subgraphs deeper than {self._limits.onnx_depth} messages")
        match item.type.message.name:
            case "TensorProto":
                self._tensor(item)
                return
            case "NodeProto":
                self._node(item, depth)
                return
            case "OperatorSetIdProto":
                self._add(self._imports, self._texts(item, "domain").get("domain", ""))
                return
            case "FunctionProto":
                names = self._texts(item, "domain", "name")
                self._add(self._functions, (names.get("domain", ""), names.get("name", "")))
        for child in self._walker.fields(item.type.message, item.start, item.end):
            if child.type.message is None:
                continue
            if main and child.name in ("input", "output"):
                self._signature(child)
            if main and child.name == "initializer":
                self._initializers.add(self._tensor(child))
            else:
                self._visit(child, depth + 1)

    def _node(self, item: Field, depth: int) -> None:
        domain = operator = ""
        for child in self._walker.fields(item.type.message, item.start, item.end):
            if child.name == "domain":
                domain = self._walker.text(child)
            elif child.name == "op_type":
                operator = self._walker.text(child)
            elif child.type.message is not None:
                self._visit(child, depth + 1)
        self._add(self._operators, (domain, operator))

    def _add(self, names: set[T], name: T) -> None:
        names.add(name)
        if len(names) > MAX_OPERATORS:
            raise ModelRejected(f"{self._path} has more than {MAX_OPERATORS:,} operators, functions or domains")

    def _check_operators(self) -> None:
        for domain, operator in sorted(self._operators):
            if (domain, operator) in FORBIDDEN:
                raise ModelRejected(f"{self._path} uses the operator {operator!r}, which loads code")
            if domain not in self._domains and (domain, operator) not in self._functions:
                raise ModelRejected(
                    f"{self._path} uses the custom operator {operator[:100]!r} of the domain {domain[:100]!r}; "
                    f"permitted domains: {', '.join(sorted(filter(None, self._domains)))}"
                )
        local = {domain for domain, _ in self._functions}
        if foreign := sorted(self._imports - local - set(self._domains)):
            raise ModelRejected(
                f"{self._path} imports the operator domain {foreign[0][:100]!r}, which is not permitted"
            )

    def _tensor(self, item: Field) -> str:
        """Check a tensor and return its name."""
        tensor = _Tensor()
        for child in self._walker.fields(item.type.message, item.start, item.end):
            match child.name:
                case "name":
                    tensor.name = self._walker.text(child)
                case "dims":
                    tensor.dims.extend(self._walker.numbers(child))
                case "data_type":
                    tensor.data_type = child.value
                case "raw_data":
                    tensor.raw = child.end - child.start
                case "data_location":
                    tensor.location = child.value
                case "external_data":
                    key, value = self._pair(child)
                    if key in tensor.external:
                        raise ModelRejected(f"{self._path}: external data of {tensor.name!r} has {key!r} twice")
                    tensor.external[key] = value
                case "segment":
                    raise ModelRejected(f"{self._path}: tensor {tensor.name!r} has segments, which are not supported")
                case _:
                    tensor.values |= child.name.endswith("_data")
            if len(tensor.dims) > self._limits.tensor_dimensions:
                raise ModelRejected(f"{self._path}: tensor {tensor.name!r} has too many dimensions")
        self._check_tensor(tensor)
        return tensor.name

    def _check_tensor(self, tensor: _Tensor) -> None:
        at = f"{self._path}: tensor {tensor.name[:100]!r}"
        if tensor.data_type not in self._names or tensor.data_type == 0:
            raise ModelRejected(f"{at} has the unknown data type {tensor.data_type}")
        elements = math.prod(tensor.dims)
        if any(size < 0 for size in tensor.dims) or elements >= 1 << 56:
            raise ModelRejected(f"{at} has the impossible shape {tensor.dims[:8]}")
        if len(self._dtypes) >= self._limits.tensors:
            raise ModelRejected(f"{self._path} has more than {self._limits.tensors:,} tensors")
        size = -(-elements * BITS.get(tensor.data_type, 8) // 8)
        if tensor.external or tensor.location == EXTERNAL:
            self._check_external(tensor, at, size)
        elif tensor.raw >= 0 and (tensor.data_type == STRING or tensor.raw != size):
            raise ModelRejected(f"{at} has {tensor.raw:,} bytes of data; its shape and type take {size:,}")
        elif tensor.raw < 0 and not tensor.values and elements:
            raise ModelRejected(f"{at} has no data")
        self._dtypes.append(self._names[tensor.data_type])
        self._parameters += elements

    def _check_external(self, tensor: _Tensor, at: str, size: int) -> None:
        if tensor.location != EXTERNAL or tensor.raw >= 0 or tensor.values or tensor.data_type == STRING:
            raise ModelRejected(f"{at} has both external and own data, or external data of texts")
        if unknown := tensor.external.keys() - EXTERNAL_KEYS:
            raise ModelRejected(f"{at}: external data has the unknown key {min(unknown)[:100]!r}")
        path = self._external_path(tensor.external.get("location", ""), at)
        offset = self._natural(tensor.external.get("offset", "0"), at)
        length = self._natural(tensor.external.get("length", str(size)), at)
        if length != size:
            raise ModelRejected(f"{at} has {length:,} bytes of external data; its shape and type take {size:,}")
        if offset + length > self._sizes[path]:
            raise ModelRejected(f"{at}: external data ends at byte {offset + length:,}, beyond the end of {path}")
        self._external.add(path)

    def _external_path(self, location: str, at: str) -> str:
        parts = location.split("/")
        if not location or location.startswith("/") or "\\" in location or ":" in location or ".." in parts:
            raise ModelRejected(f"{at}: external data is at {location[:100]!r}, outside the model folder")
        path = str(PurePosixPath(self._path).parent / location)
        if path not in self._sizes or path == self._path:
            raise ModelRejected(f"{at}: external data is in {location[:100]!r}, which is not a file of the model")
        return path

    def _natural(self, number: str, at: str) -> int:
        if not (number.isascii() and number.isdecimal() and len(number) <= 18):
            raise ModelRejected(f"{at}: external data has the invalid number {number[:40]!r}")
        return int(number)

    def _signature(self, item: Field) -> None:
        listed = self._inputs if item.name == "input" else self._outputs
        if len(listed) >= MAX_SIGNATURE:
            raise ModelRejected(f"{self._path} has more than {MAX_SIGNATURE:,} {item.name}s")
        value = _Value()
        self._value(item, value, 0)
        listed.append(TensorSignature(value.name, value.dtype, value.shape))

    def _value(self, item: Field, value: _Value, depth: int) -> None:
        """Read a `ValueInfoProto`, and the tensor type inside it."""
        if depth > self._limits.onnx_depth:
            raise ModelRejected(f"{self._path} nests types deeper than {self._limits.onnx_depth} messages")
        for child in self._walker.fields(item.type.message, item.start, item.end):
            match child.name:
                case "name":
                    value.name = self._walker.text(child)
                case "elem_type" if child.type.message is None:
                    value.dtype = self._names.get(child.value, "")
                case "shape":
                    value.shape = tuple(self._dimensions(child))
                case "type" | "tensor_type":
                    self._value(child, value, depth + 1)
                case name if name.endswith("_type"):
                    value.dtype = name.removesuffix("_type")

    def _dimensions(self, shape: Field) -> list[int | str]:
        dimensions: list[int | str] = []
        for child in self._walker.fields(shape.type.message, shape.start, shape.end):
            if len(dimensions) >= self._limits.tensor_dimensions:
                raise ModelRejected(f"{self._path} has an input or output with too many dimensions")
            size: int | str = "?"
            for part in self._walker.fields(child.type.message, child.start, child.end):
                if part.name == "dim_value":
                    size = next(self._walker.numbers(part))
                elif part.name == "dim_param":
                    size = self._walker.text(part, 128)
            dimensions.append(size)
        return dimensions

    def _pair(self, item: Field) -> tuple[str, str]:
        """Return key and value of a `StringStringEntryProto`."""
        pair = self._texts(item, "key", "value", maximum=self._limits.kept_string_bytes)
        return pair.get("key", ""), pair.get("value", "")

    def _texts(self, item: Field, *names: str, maximum: int = 512) -> dict[str, str]:
        return {
            child.name: self._walker.text(child, maximum)
            for child in self._walker.fields(item.type.message, item.start, item.end)
            if child.name in names
        }

    def _header(self) -> Header:
        metadata = self._metadata
        description = Description(
            format="onnx",
            architecture=text(metadata.get("architecture") or metadata.get("model_type")),
            parameters=self._parameters,
            tensors=len(self._dtypes),
            dtypes=counted(self._dtypes),
            context_length=count(metadata.get("context_length")),
            inputs=tuple(value for value in self._inputs if value.name not in self._initializers),
            outputs=tuple(self._outputs),
            licence=text(metadata.get("license") or metadata.get("licence")),
            datasets=texts(metadata.get("datasets")),
        )
        return Header(description, external_files=frozenset(self._external))
