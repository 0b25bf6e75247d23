"""Attributes of documents: strings, numbers and booleans, the same type in JSON, in contracts and in PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.struct_pb2 import Value

Scalar = str | int | float | bool

MAX_NUMBER = 2**53
"""Largest magnitude up to which JSON represents every integer exactly (RFC 8259, section 6)."""


def to_values(attributes: Mapping[str, Scalar]) -> dict[str, Value]:
    """Return attributes as protobuf values."""
    return {name: to_value(value) for name, value in attributes.items()}


def to_value(scalar: Scalar) -> Value:
    """Return one attribute as a protobuf value."""
    if isinstance(scalar, bool):
        return Value(bool_value=scalar)
    return Value(string_value=scalar) if isinstance(scalar, str) else Value(number_value=scalar)


def from_values(values: Mapping[str, Value]) -> dict[str, Scalar]:
    """Return the attributes of a message; whole numbers become `int`."""
    return {name: from_value(value) for name, value in values.items()}


def from_value(value: Value) -> Scalar:
    """Return one attribute of a message. The field rules of the contracts reject null, lists and objects."""
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() else number
        case kind:
            raise TypeError(f"an attribute is a string, a number or a boolean, not {kind}")
