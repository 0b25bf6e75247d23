"""Validation of request messages by the rules that their proto fields declare (`drw.api.kernel.v1.rules`).

Every transport validates a request before it calls the service: see `drw.kernel.rpc`. A service checks by itself only
what a single field cannot say, such as rules between fields or against stored data.
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

MAX_SHOWN = 80
"""Characters of a wrong value that an error repeats."""


def validate(message: Message, ignore: Collection[str] = ()) -> None:
    """Raise where a message breaks a rule of one of its fields; `ignore` names fields of the message to skip.

    Raises:
        InvalidRequest: `param` is the path of the field, as in `headers[0].name`.
    """
    for param, text in _violations(message, "", ignore):
        raise InvalidRequest(f"{param} {text}", param=param)


def one_of(value: str, known: Collection[str], param: str) -> None:
    """Raise where a value is not among the known ones."""
    if value not in known:
        raise InvalidRequest(f"{param} is {_shown(value)}; it can be: {', '.join(known) or 'nothing'}", param=param)


@dataclass(frozen=True, slots=True)
class _Field:
    """A field that has rules, or holds messages whose fields have some."""

    name: str
    rules: Rules | None
    pattern: re.Pattern[str] | None
    allowed: tuple[str, ...]
    repeated: bool
    enum: bool
    nested: bool


@cache
def _fields(descriptor: Descriptor) -> tuple[_Field, ...]:
    return tuple(field for each in descriptor.fields if (field := _field(each, descriptor)) is not None)


def _field(field: FieldDescriptor, parent: Descriptor) -> _Field | None:
    options: Any = field.GetOptions()
    rules: Rules | None = options.Extensions[kernel_pb2.rules] if options.HasExtension(kernel_pb2.rules) else None
    kind: Any = field.message_type
    # A message that holds messages of its own type would be read for ever; none of the contracts has one.
    own = kind is not None and kind is not parent and kind.file.package.startswith("drw.")
    nested = own and not kind.GetOptions().map_entry and bool(_fields(kind))
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
    """Yield the path of each field that breaks a rule, with what is wrong and what would be right."""
    for field in _fields(message.DESCRIPTOR):
        if field.name in ignore:
            continue
        value = getattr(message, field.name)
        param = f"{prefix}{field.name}"
        items = value if field.repeated and not isinstance(value, Mapping) else ()
        if field.rules is not None:
            if field.repeated:
                yield from ((param, text) for text in _of_list(field, value))
                yield from ((f"{param}[{i}]", text) for i, item in enumerate(items) for text in _of_value(field, item))
            elif text := _missing(field, value) or next(_of_value(field, value), ""):
                yield param, text
        if field.nested and field.repeated:
            for i, item in enumerate(items):
                yield from _violations(item, f"{param}[{i}].")
        elif field.nested and message.HasField(field.name):
            yield from _violations(value, f"{param}.")


def _missing(field: _Field, value: Any) -> str:
    assert field.rules is not None
    if not field.rules.required or value:
        return ""
    return f"is missing; {_right(field) or 'give a value'}"


def _of_list(field: _Field, value: Collection[Any]) -> Iterator[str]:
    rules = field.rules
    assert rules is not None
    if rules.required and not value:
        yield f"is empty; it needs at least one{f': {_right(field)}' if _right(field) else ''}"
    if rules.max_items and len(value) > rules.max_items:
        yield f"has {len(value)} items; it can have at most {rules.max_items}"
    if rules.unique and not isinstance(value, Mapping):
        seen = list(value)
        if twice := [item for item in seen if seen.count(item) > 1]:
            yield f"has {_shown(twice[0])} twice; each item can be given once"


def _of_value(field: _Field, value: Any) -> Iterator[str]:
    rules = field.rules
    assert rules is not None
    if isinstance(value, str):
        if not value and not field.repeated:
            return
        good = (
            (not rules.max_length or len(value) <= rules.max_length)
            and (not rules.printable or (value.isprintable() and value == value.strip()))
            and (field.pattern is None or field.pattern.fullmatch(value) is not None)
            and (not field.allowed or value in field.allowed)
        )
        if not good or (field.repeated and not value):
            shown = "is not valid" if rules.secret else f"is {_shown(value)}"
            yield f"{shown}; {_right(field) or 'it cannot be empty'}"
    elif isinstance(value, int) and not field.enum:
        low = rules.minimum if rules.HasField("minimum") else None
        high = rules.maximum if rules.HasField("maximum") else None
        if (low is not None and value < low) or (high is not None and value > high):
            yield f"is {value}; {_right(field)}"


def _right(field: _Field) -> str:
    """Return what a value of the field can be."""
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


def _shown(value: Any) -> str:
    return repr(value[:MAX_SHOWN] if isinstance(value, str) else value)
