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
from google.protobuf.struct_pb2 import Value

from drw.api.kernel.v1 import kernel_pb2
from drw.api.kernel.v1.kernel_pb2 import Rules
from drw.kernel.attributes import MAX_NUMBER
from drw.kernel.errors import InvalidRequest
from drw.kernel.scopes import SCOPES

MAX_QUOTED = 80
"""Maximum characters of an invalid value in an error message."""
MAX_KEY_SHOWN = 64
"""Characters of a map's key in an error."""


def validate(message: Message, ignore: Collection[str] = ()) -> None:
    """Validate a message by the rules of its fields, except fields in `ignore`.

    Raises:
        InvalidRequest: a field breaks a rule; `param` is its path, as in `headers[0].name` or `attributes.year`.
    """
    for param, text in _violations(message, "", ignore):
        raise InvalidRequest(f"{param} {text}", param=param)


def check_choice(value: str, choices: Collection[str], param: str) -> None:
    """Raise `InvalidRequest` if a value is not one of the choices."""
    if value not in choices:
        raise InvalidRequest(f"{param} is {_quoted(value)}; it can be: {', '.join(choices) or 'nothing'}", param=param)


@dataclass(frozen=True, slots=True)
class _ValueRules:
    """The rules of one value: a singular field, an item of a list, a key or a value of a map."""

    rules: Rules
    pattern: re.Pattern[str] | None
    allowed: tuple[str, ...]
    valid: str
    """What the value can be, for the error message."""

    @classmethod
    def of(cls, rules: Rules) -> _ValueRules:
        return cls(
            rules=rules,
            pattern=re.compile(rules.pattern) if rules.pattern else None,
            allowed=tuple(SCOPES) if rules.scope else tuple(rules.one_of),
            valid=_expectation(rules),
        )


@dataclass(frozen=True, slots=True)
class _Field:
    """A field with rules, or with messages whose fields have rules."""

    name: str
    rules: Rules | None
    value: _ValueRules | None
    """Of the field, or of each item of a list; None: any value of its type."""
    keys: _ValueRules | None
    values: _ValueRules | None
    repeated: bool
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
    bounded = rules is not None and (
        field.type == FieldDescriptor.TYPE_STRING or rules.HasField("minimum") or rules.HasField("maximum")
    )
    return _Field(
        name=field.name,
        rules=rules,
        value=_ValueRules.of(rules) if rules and bounded else None,
        keys=_ValueRules.of(rules.keys) if rules and rules.HasField("keys") else None,
        values=_ValueRules.of(rules.values) if rules and rules.HasField("values") else None,
        repeated=field.is_repeated,
        nested=nested,
    )


def _violations(message: Message, prefix: str, ignore: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """Yield the path of each field that breaks a rule, with what is wrong and what would be right."""
    for field in _fields(message.DESCRIPTOR):
        if field.name in ignore:
            continue
        value = getattr(message, field.name)
        param = f"{prefix}{field.name}"
        if field.rules is not None and field.repeated:
            yield from _of_list(field, value, param)
        elif field.rules is not None:
            is_set = message.HasField(field.name) if isinstance(value, Message) else bool(value)
            if field.rules.required and not is_set:
                yield param, f"is missing; {_expectation(field.rules) or 'give a value'}"
            elif field.value and (text := _violation(field.value, value)):
                yield param, text
        if field.nested and field.repeated:
            for i, item in enumerate(value):
                yield from _violations(item, f"{param}[{i}].")
        elif field.nested and message.HasField(field.name):
            yield from _violations(value, f"{param}.")


def _of_list(field: _Field, value: Collection[Any], param: str) -> Iterator[tuple[str, str]]:
    rules = field.rules
    assert rules is not None
    if rules.required and not value:
        yield param, f"is empty; it needs at least one{f': {_expectation(rules)}' if _expectation(rules) else ''}"
    if rules.max_items and len(value) > rules.max_items:
        yield param, f"has {len(value)} items; it can have at most {rules.max_items}"
    if isinstance(value, Mapping):
        yield from _of_map(field, value, param)
        return
    if rules.unique:
        items = list(value)
        if twice := [item for item in items if items.count(item) > 1]:
            yield param, f"has {_quoted(twice[0])} twice; each item can be given once"
    if field.value:
        for i, item in enumerate(value):
            if text := _violation(field.value, item, required=True):
                yield f"{param}[{i}]", text


def _of_map(field: _Field, value: Mapping[Any, Any], param: str) -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        if field.keys and (text := _violation(field.keys, key, required=True)):
            yield param, f"has a key that {text}"
        if field.values and (text := _violation(field.values, item, required=field.values.rules.required)):
            yield f"{param}.{str(key)[:MAX_KEY_SHOWN]}", text


def _violation(value_rules: _ValueRules, value: Any, *, required: bool = False) -> str:
    """Return what is wrong with a value and what would be right; "" if it is valid, or empty and not required."""
    if isinstance(value, str):
        return _of_string(value_rules, value) if value or required else ""
    if isinstance(value, Value):
        return _of_scalar(value_rules, value)
    rules = value_rules.rules
    low = rules.minimum if rules.HasField("minimum") else value
    high = rules.maximum if rules.HasField("maximum") else value
    return "" if low <= value <= high else f"is {value}; {value_rules.valid}"


def _of_string(value_rules: _ValueRules, value: str) -> str:
    rules, pattern, allowed = value_rules.rules, value_rules.pattern, value_rules.allowed
    if rules.max_length and len(value) > rules.max_length:
        return f"has {len(value)} characters; {value_rules.valid}"
    if (
        value
        and (not rules.printable or (value.isprintable() and value == value.strip()))
        and (pattern is None or pattern.fullmatch(value) is not None)
        and (not allowed or value in allowed)
    ):
        return ""
    shown = "is not valid" if rules.secret else f"is {_quoted(value)}"
    return f"{shown}; {value_rules.valid or 'it cannot be empty'}"


def _of_scalar(value_rules: _ValueRules, value: Value) -> str:
    match value.WhichOneof("kind"):
        case "string_value":
            return _violation(value_rules, value.string_value)
        case "bool_value":
            return ""
        case "number_value" if abs(value.number_value) <= MAX_NUMBER:
            return ""
        case "number_value":
            return f"is {value.number_value!r}; a number is from -2^53 to 2^53"
        case _:
            return "must be a string, a number or a boolean"


def _expectation(rules: Rules) -> str:
    """Return what a value can be."""
    if rules.expected:
        return f"it must be {rules.expected}"
    if allowed := tuple(SCOPES) if rules.scope else tuple(rules.one_of):
        return f"it can be: {', '.join(allowed)}"
    if rules.HasField("minimum") and rules.HasField("maximum"):
        return f"it can be {rules.minimum} to {rules.maximum}"
    if rules.HasField("minimum"):
        return f"it can be {rules.minimum} or more"
    if rules.HasField("maximum"):
        return f"it can be {rules.maximum} or less"
    kind = "printable characters" if rules.printable else "characters"
    if rules.max_length:
        return f"it can have {'1' if rules.required else 'up'} to {rules.max_length} {kind}"
    return f"it must match {rules.pattern!r}" if rules.pattern else ""


def _quoted(value: Any) -> str:
    return repr(value[:MAX_QUOTED] if isinstance(value, str) else value)
