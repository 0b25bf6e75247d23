"""Attributes of documents: strings, numbers and booleans, the same type in JSON, in contracts and in PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.struct_pb2 import Value

from drw.kernel.errors import InvalidRequest

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


def from_values(values: Mapping[str, Value], param: str = "attributes") -> dict[str, Scalar]:
    """Return the attributes of a message; whole numbers become `int`.

    Raises:
        InvalidRequest: a value is null, a list, an object, or a number that JSON cannot represent exactly.
    """
    return {name: from_value(value, f"{param}.{name[:64]}") for name, value in values.items()}


def from_value(value: Value, param: str) -> Scalar:
    """Return one attribute of a message.

    Raises:
        InvalidRequest: the value is null, a list, an object, or a number that JSON cannot represent exactly.
    """
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "number_value" if abs(value.number_value) <= MAX_NUMBER:
            number = value.number_value
            return int(number) if number.is_integer() else number
        case "number_value":
            raise InvalidRequest(f"{param} is {value.number_value!r}; a number is from -2^53 to 2^53", param=param)
        case _:
            raise InvalidRequest(f"{param} must be a string, a number or a boolean", param=param)
