"""Messages as JSON: strict when read, plain when written."""

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
LARGE = (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_SINT64)


def to_json(message: Message) -> Any:
    """Return a message as JSON values: field names as in the proto file, 64-bit integers as numbers."""
    value = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return _numbers(value, message.DESCRIPTOR)


def from_json(fields: Mapping[str, Any], cls: type[M]) -> M:
    """Return a message with these fields.

    Raises:
        InvalidRequest: a field does not exist, or has a wrong value.
    """
    try:
        return _known(json_format.ParseDict(_packed(fields, cls.DESCRIPTOR), cls()))
    except json_format.ParseError as error:
        text = str(error)
        if match := re.search(r"Failed to parse (\w+) field", text):
            raise InvalidRequest(text, param=match[1]) from error
        raise InvalidRequest(_readable(text)) from error


def json_message(value: Any) -> Json:
    """Return a JSON value as a message that keeps the type of its numbers."""
    return Json(text=orjson.dumps(value).decode())


def json_value(message: Json) -> Any:
    """Return the value of `json_message`; None for a message without a value.

    Raises:
        InvalidRequest: the text is not JSON.
    """
    try:
        return orjson.loads(message.text) if message.text else None
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"{message.text[:80]!r} is not JSON: {error}") from error


def _packed(fields: Mapping[str, Any], descriptor: Any) -> dict[str, Any]:
    """Return the fields with each JSON value as the text that its message holds."""
    packed = dict(fields)
    for name, value in fields.items():
        field = descriptor.fields_by_name.get(name)
        kind = field.message_type if field else None
        if kind is None or value is None:
            continue
        if kind.full_name == JSON:
            packed[name] = {"text": orjson.dumps(value).decode()}
        elif isinstance(value, Mapping) and not kind.GetOptions().map_entry:
            packed[name] = _packed(value, kind)
        elif isinstance(value, list) and kind.file.package.startswith("drw."):
            packed[name] = [_packed(each, kind) if isinstance(each, Mapping) else each for each in value]
    return packed


def _known(message: M) -> M:
    """Return the message after checking its enum values: parsing accepts any number.

    Raises:
        InvalidRequest: an enum has an unknown value.
    """
    for field, value in message.ListFields():
        for one in value if field.is_repeated and not isinstance(value, Mapping) else (value,):
            if isinstance(one, Message) and one.DESCRIPTOR.file.package.startswith("drw."):
                _known(one)
            elif (enum := field.enum_type) and one not in enum.values_by_number:
                known = ", ".join(enum.values_by_name)
                raise InvalidRequest(f"{field.name} is {one!r}; it can be: {known}", param=field.name)
    return message


def _readable(text: str) -> str:
    if match := re.search(r'no field named "([^"]+)"', text):
        known = ", ".join(snake(name) for name in re.findall(r"'(\w+)'", text.partition("Available Fields")[2]))
        return f"{match[1]!r} is not a field; there are: {known}"
    return text


def _numbers(value: Any, descriptor: Any) -> Any:
    for name, item in value.items() if isinstance(value, dict) else ():
        field = descriptor.fields_by_name.get(name)
        if field is None:
            continue
        if (kind := field.message_type) is not None and kind.full_name == JSON:
            value[name] = orjson.loads(item["text"]) if item.get("text") else None
        elif field.type in LARGE:
            value[name] = [int(i) for i in item] if isinstance(item, list) else int(item)
        elif kind and kind.file.package.startswith("drw.") and not kind.GetOptions().map_entry:
            for each in item if isinstance(item, list) else [item]:
                _numbers(each, kind)
        elif _is_free(kind):
            value[name] = _whole(item)
    return value


def _is_free(kind: Any) -> bool:
    """Return whether a field is google.protobuf.Value, Struct or ListValue, or a map of them."""
    if kind is None:
        return False
    if kind.GetOptions().map_entry:
        return _is_free(kind.fields_by_name["value"].message_type)
    return str(kind.file.name) == "google/protobuf/struct.proto"


def _whole(value: Any) -> Any:
    """Return JSON with whole numbers as integers: google.protobuf.Value has doubles only."""
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53 else value
