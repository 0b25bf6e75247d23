"""Validation of request messages by the rules that their proto fields declare (`drw.api.kernel.v1.rules`).

Every transport validates a request before it calls the service: see `drw.kernel.rpc`. Services check only rules
between fields and rules that need stored data.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from drw.api.kernel.v1 import kernel_pb2
from drw.api.kernel.v1.kernel_pb2 import Rules
from drw.kernel.errors import InvalidRequest
from drw.kernel.scopes import SCOPES

MAX_QUOTED = 80
"""Maximum characters of an invalid value in an error message."""


def validate(message: Message, ignore: Collection[str] = ()) -> None:
    """Validate a message by the rules of its fields, except fields in `ignore`.

    Raises:
        InvalidRequest: a field breaks a rule; `param` is its path, as in `headers[0].name`.
    """
    for param, text in _violations(message, "", ignore):
        raise InvalidRequest(f"{param} {text}", param=param)


def check_choice(value: str, allowed: Collection[str], param: str) -> None:
    """Raise `InvalidRequest` if a value is not one of the allowed values."""
    if value not in allowed:
        raise InvalidRequest(f"{param} is {_quoted(value)}; it can be: {', '.join(allowed) or 'nothing'}", param=param)


@dataclass(frozen=True, slots=True)
class _Field:
    """A field with rules, or with messages whose fields have rules."""

    name: str
    rules: Rules | None
    pattern: re.Pattern[str] | None
    allowed: tuple[str, ...]
    repeated: bool
    enum: bool
    nested: bool


@cache
def _fields(descriptor: Descriptor) -> tuple[_Field, ...]:
    return tuple(
        field for descriptor_field in descriptor.fields if (field := _field(descriptor_field, descriptor)) is not None
    )


def _field(field: FieldDescriptor, parent: Descriptor) -> _Field | None:
    options: Any = field.GetOptions()
    rules: Rules | None = options.Extensions[kernel_pb2.rules] if options.HasExtension(kernel_pb2.rules) else None
    kind: Any = field.message_type
    # Recursive message types would recurse endlessly; no contract has one.
    is_drw_message = kind is not None and kind is not parent and kind.file.package.startswith("drw.")
    nested = is_drw_message and not kind.GetOptions().map_entry and bool(_fields(kind))
    if rules is None and not nested:
        return None
    return _Field(
        name=field.name,
        rules=rules,
        pattern=re.compile(rules.pattern) if rules and rules.pattern else None,
        allowed=tuple(SCOPES) if rules and rules.scope else tuple(rules.one_of) if rules else (),
        repeated=field.is_repeated,
        enum=field.enum_type is not None,
        nested=nested,
    )


def _violations(message: Message, prefix: str, ignore: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """Yield the path of each field that breaks a rule, and the message of the error."""
    for field in _fields(message.DESCRIPTOR):
        if field.name in ignore:
            continue
        value = getattr(message, field.name)
        param = f"{prefix}{field.name}"
        items = value if field.repeated and not isinstance(value, Mapping) else ()
        if field.rules is not None:
            if field.repeated:
                yield from ((param, text) for text in _list_violations(field, value))
                yield from (
                    (f"{param}[{i}]", text) for i, item in enumerate(items) for text in _value_violations(field, item)
                )
            elif text := _missing_value(field, value) or next(_value_violations(field, value), ""):
                yield param, text
        if field.nested and field.repeated:
            for i, item in enumerate(items):
                yield from _violations(item, f"{param}[{i}].")
        elif field.nested and message.HasField(field.name):
            yield from _violations(value, f"{param}.")


def _missing_value(field: _Field, value: Any) -> str:
    assert field.rules is not None
    if not field.rules.required or value:
        return ""
    return f"is missing; {_expectation(field) or 'give a value'}"


def _list_violations(field: _Field, value: Collection[Any]) -> Iterator[str]:
    rules = field.rules
    assert rules is not None
    if rules.required and not value:
        yield f"is empty; it needs at least one{f': {_expectation(field)}' if _expectation(field) else ''}"
    if rules.max_items and len(value) > rules.max_items:
        yield f"has {len(value)} items; it can have at most {rules.max_items}"
    if rules.unique and not isinstance(value, Mapping):
        items = list(value)
        if repeated := [item for item in items if items.count(item) > 1]:
            yield f"has {_quoted(repeated[0])} twice; each item can be given once"


def _value_violations(field: _Field, value: Any) -> Iterator[str]:
    rules = field.rules
    assert rules is not None
    if isinstance(value, str):
        if not value and not field.repeated:
            return
        valid = (
            (not rules.max_length or len(value) <= rules.max_length)
            and (not rules.printable or (value.isprintable() and value == value.strip()))
            and (field.pattern is None or field.pattern.fullmatch(value) is not None)
            and (not field.allowed or value in field.allowed)
        )
        if not valid or (field.repeated and not value):
            problem = "is not valid" if rules.secret else f"is {_quoted(value)}"
            yield f"{problem}; {_expectation(field) or 'it cannot be empty'}"
    elif isinstance(value, int) and not field.enum:
        low = rules.minimum if rules.HasField("minimum") else None
        high = rules.maximum if rules.HasField("maximum") else None
        if (low is not None and value < low) or (high is not None and value > high):
            yield f"is {value}; {_expectation(field)}"


def _expectation(field: _Field) -> str:
    """Return the sentence that says which values the field accepts."""
    rules = field.rules
    assert rules is not None
    if rules.expected:
        return f"it must be {rules.expected}"
    if field.allowed:
        return f"it can be: {', '.join(field.allowed)}"
    if rules.HasField("minimum") and rules.HasField("maximum"):
        return f"it can be {rules.minimum} to {rules.maximum}"
    if rules.HasField("minimum") or rules.HasField("maximum"):
        return f"it can be at least {rules.minimum}" if rules.HasField("minimum") else f"at most {rules.maximum}"
    kind = "printable characters" if rules.printable else "characters"
    if rules.max_length:
        return f"it can have {'1' if rules.required else 'up'} to {rules.max_length} {kind}"
    return f"it must match {rules.pattern!r}" if rules.pattern else ""


def _quoted(value: Any) -> str:
    return repr(value[:MAX_QUOTED] if isinstance(value, str) else value)
