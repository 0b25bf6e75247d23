"""Conversion between protobuf messages and JSON. Parsing is strict."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import orjson
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from drw.api.contract import snake
from drw.api.kernel.v1.kernel_pb2 import Json
from drw.kernel.errors import InvalidRequest

M = TypeVar("M", bound=Message)

JSON = Json.DESCRIPTOR.full_name
INT64_TYPES = (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_SINT64)


def to_json(message: Message) -> Any:
    """Convert a message to JSON values: field names as in the proto file, 64-bit integers as numbers."""
    value = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return _restore_values(value, message.DESCRIPTOR)


def from_json(fields: Mapping[str, Any], cls: type[M]) -> M:
    """Convert JSON fields to a message.

    Raises:
        InvalidRequest: a field does not exist, or has a wrong value.
    """
    try:
        return _check_enums(json_format.ParseDict(_with_json_as_text(fields, cls.DESCRIPTOR), cls()))
    except json_format.ParseError as error:
        raise _readable_error(str(error)) from error


def json_message(value: Any) -> Json:
    """Return a JSON value as a message that preserves integers and floats."""
    return Json(text=orjson.dumps(value).decode())


def json_value(message: Json) -> Any:
    """Return the value of a message made by `json_message`; None for an empty message.

    Raises:
        InvalidRequest: the text is not JSON.
    """
    try:
        return orjson.loads(message.text) if message.text else None
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"{message.text[:80]!r} is not JSON: {error}") from error


def _with_json_as_text(fields: Mapping[str, Any], descriptor: Any) -> dict[str, Any]:
    """Return the fields with each value of a `Json` field as text."""
    converted = dict(fields)
    for name, value in fields.items():
        field = descriptor.fields_by_name.get(name)
        kind = field.message_type if field else None
        if kind is None or value is None:
            continue
        if kind.full_name == JSON:
            converted[name] = {"text": orjson.dumps(value).decode()}
        elif isinstance(value, Mapping) and not kind.GetOptions().map_entry:
            converted[name] = _with_json_as_text(value, kind)
        elif isinstance(value, list) and kind.file.package.startswith("drw."):
            converted[name] = [
                _with_json_as_text(element, kind) if isinstance(element, Mapping) else element for element in value
            ]
    return converted


def _check_enums(message: M) -> M:
    """Check the enum values of a message, since parsing accepts any number.

    Raises:
        InvalidRequest: an enum has an unknown value.
    """
    for field, value in message.ListFields():
        for element in value if field.is_repeated and not isinstance(value, Mapping) else (value,):
            if isinstance(element, Message) and element.DESCRIPTOR.file.package.startswith("drw."):
                _check_enums(element)
            elif (enum := field.enum_type) and element not in enum.values_by_number:
                names = ", ".join(enum.values_by_name)
                raise InvalidRequest(f"{field.name} is {element!r}; it can be: {names}", param=field.name)
    return message


def _readable_error(text: str) -> InvalidRequest:
    """Return the error for a text of the parser; `param` is the path of the field, where the text has it."""
    at = re.search(r' at "?\w+\.([\w\[\]]+(?:\.[\w\[\]]+)*)', text)
    path = at[1] if at else ".".join(re.findall(r"Failed to parse (\w+) field", text))
    if match := re.search(r'no field named "([^"]+)"', text):
        names = ", ".join(snake(name) for name in re.findall(r"'(\w+)'", text.partition("Available Fields")[2]))
        message = f"{match[1]!r} is not a field{f' of {path}' if path else ''}; there are: {names}"
        return InvalidRequest(message, **({"param": f"{path}.{match[1]}"} if path else {}))
    if not path:
        return InvalidRequest(text)
    reason = text.rpartition(" field: ")[2].replace(at[0] if at else "", "").rstrip(".")
    return InvalidRequest(f"{path}: {reason}", param=path)


def _restore_values(value: Any, descriptor: Any) -> Any:
    for name, item in value.items() if isinstance(value, dict) else ():
        field = descriptor.fields_by_name.get(name)
        if field is None:
            continue
        if (kind := field.message_type) is not None and kind.full_name == JSON:
            value[name] = orjson.loads(item["text"]) if item.get("text") else None
        elif field.type in INT64_TYPES:
            value[name] = [int(i) for i in item] if isinstance(item, list) else int(item)
        elif kind and kind.file.package.startswith("drw.") and not kind.GetOptions().map_entry:
            for element in item if isinstance(item, list) else [item]:
                _restore_values(element, kind)
        elif _is_open_json(kind):
            value[name] = _with_integers(item)
    return value


def _is_open_json(kind: Any) -> bool:
    """Return whether a field is google.protobuf.Value, Struct or ListValue, or a map of them."""
    if kind is None:
        return False
    if kind.GetOptions().map_entry:
        return _is_open_json(kind.fields_by_name["value"].message_type)
    return str(kind.file.name) == "google/protobuf/struct.proto"


def _with_integers(value: Any) -> Any:
    """Return JSON with whole numbers as integers: google.protobuf.Value has doubles only."""
    if isinstance(value, dict):
        return {name: _with_integers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_integers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53 else value
