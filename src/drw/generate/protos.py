"""Parsed proto files as plain values with their comments, and the output of protoc."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)

import drw
from drw.api.kernel.v1 import kernel_pb2
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.http.rest import PATH_WILDCARD

ROOT = Path(drw.__file__).parents[2]
"""The checkout."""
PROTO = "proto"

# Paths of comments: field numbers in descriptor.proto.
MESSAGES, SERVICES = 4, 6
FIELDS, NESTED_MESSAGES = 2, 3
METHODS = 2


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a message."""

    name: str
    type: str
    """As in the proto file: "string", "int32", ...; "message" or "enum" with their name in `of`; or "map"."""
    of: str = ""
    """The full name of the message or the enum; of a map: the type of its values."""
    repeated: bool = False
    comment: str = ""
    rules: kernel_pb2.Rules | None = None
    """The rules of the field; None: any value of its type."""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """A message."""

    name: str
    comment: str
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Method:
    """A method of a service; `verb` is empty without a REST binding."""

    name: str
    comment: str
    request: str
    response: str
    streams: bool = False
    verb: str = ""
    path: str = ""
    body: str = ""
    scope: str = ""
    idle_seconds: int = 0


@dataclass(frozen=True, slots=True)
class Contract:
    """A service as its proto file describes it."""

    name: str
    file: str
    comment: str
    methods: tuple[Method, ...]


@dataclass(frozen=True, slots=True)
class Protos:
    """All proto files of the platform."""

    contracts: tuple[Contract, ...]
    messages: dict[str, Message]
    enums: dict[str, tuple[str, ...]]
    """The names of the values, by the name of the enum."""
    file_of: dict[str, str]
    """The proto file of a message."""
    python: dict[str, str]
    """Output of protoc: the text of Python files by their path below src/."""


@cache
def compiled() -> Protos:
    """Return the parsed proto files of this checkout; protoc runs once.

    Raises:
        InvalidRequest: protoc reported an error, or this is not a checkout.
    """
    sources = sorted(str(p.relative_to(ROOT / PROTO)) for p in (ROOT / PROTO).rglob("*.proto"))
    if not sources:
        raise InvalidRequest(f"{str(ROOT)!r} has no proto files: `drw generate` works in a checkout only")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        python = out / "python"
        python.mkdir()
        _protoc(sources, out / "set", python)
        descriptors = FileDescriptorSet.FromString((out / "set").read_bytes())
        texts = {str(p.relative_to(python)): p.read_text(encoding="utf-8") for p in sorted(python.rglob("*.py*"))}
    return read(descriptors, texts)


def read(descriptors: FileDescriptorSet, python: dict[str, str]) -> Protos:
    """Return the platform's own part of a set of descriptors."""
    files = [_File(file) for file in descriptors.file if file.package.startswith("drw.api.")]
    messages = [(message, file.name) for file in files for message in file.messages()]
    return Protos(
        contracts=tuple(contract for file in files for contract in file.contracts()),
        messages={message.name: message for message, _ in messages},
        enums={name: values for file in files for name, values in file.enums()},
        file_of={message.name: file for message, file in messages},
        python=python,
    )


def _protoc(sources: Sequence[str], descriptors: Path, python: Path) -> None:
    from grpc_tools import protoc  # the compiler is needed here only, and is not installed where the platform runs

    google = Path(annotations_pb2.__file__).parents[2]
    well_known = Path(protoc.__file__).parent / "_proto"
    folders = [f"-I{folder}" for folder in (ROOT / PROTO, google, well_known)]
    outputs = [f"--python_out={python}", f"--pyi_out={python}", f"--descriptor_set_out={descriptors}"]
    options = ["--include_source_info", "--include_imports"]
    if protoc.main(["protoc", *folders, *outputs, *options, *sources]) != 0:
        raise InvalidRequest("protoc rejects the proto files; see its messages above")


class _File:
    """Reads one proto file."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file
        self.name = file.name
        self._comments = {
            tuple(location.path): " ".join(location.leading_comments.split())
            for location in file.source_code_info.location
        }

    def contracts(self) -> Iterator[Contract]:
        for index, service in enumerate(self._file.service):
            location = (SERVICES, index)
            methods = tuple(_method(m, self._comment(*location, METHODS, i)) for i, m in enumerate(service.method))
            yield Contract(f"{self._file.package}.{service.name}", self.name, self._comment(*location), methods)

    def messages(self) -> Iterator[Message]:
        for index, message in enumerate(self._file.message_type):
            yield from self._message(message, self._file.package, (MESSAGES, index))

    def enums(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        package = self._file.package
        nested = [(f"{package}.{m.name}", enum) for m in self._file.message_type for enum in m.enum_type]
        for parent, enum in [*((package, enum) for enum in self._file.enum_type), *nested]:
            yield f"{parent}.{enum.name}", tuple(value.name for value in enum.value)

    def _message(self, message: DescriptorProto, parent: str, location: tuple[int, ...]) -> Iterator[Message]:
        name = f"{parent}.{message.name}"
        maps = {f".{name}.{m.name}": m for m in message.nested_type if m.options.map_entry}
        fields = tuple(_field(f, maps, self._comment(*location, FIELDS, i)) for i, f in enumerate(message.field))
        yield Message(name, self._comment(*location), fields)
        for index, nested in enumerate(message.nested_type):
            if not nested.options.map_entry:
                yield from self._message(nested, name, (*location, NESTED_MESSAGES, index))

    def _comment(self, *location: int) -> str:
        return self._comments.get(location, "")


def _method(method: MethodDescriptorProto, comment: str) -> Method:
    http: Any = method.options.Extensions[annotations_pb2.http]
    verb = http.WhichOneof("pattern") or ""
    return Method(
        name=method.name,
        comment=comment,
        request=method.input_type.removeprefix("."),
        response=method.output_type.removeprefix("."),
        streams=method.server_streaming,
        verb=verb.upper(),
        path=getattr(http, verb).replace(PATH_WILDCARD, "}") if verb else "",
        body=http.body,
        scope=str(method.options.Extensions[kernel_pb2.scope]),  # type: ignore[index]
        idle_seconds=int(method.options.Extensions[kernel_pb2.idle_seconds]),  # type: ignore[index]
    )


def _field(field: FieldDescriptorProto, maps: dict[str, DescriptorProto], comment: str) -> Field:
    options: Any = field.options
    rules = options.Extensions[kernel_pb2.rules] if options.HasExtension(kernel_pb2.rules) else None
    if entry := maps.get(field.type_name):
        value = _field(entry.field[1], {}, "")
        return Field(field.name, "map", value.of or value.type, comment=comment, rules=rules, number=field.number)
    type_name = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
    return Field(field.name, type_name, field.type_name.removeprefix("."), repeated, comment, rules, field.number)
