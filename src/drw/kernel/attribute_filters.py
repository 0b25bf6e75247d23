"""Filters over attributes, in the form of OpenAI's vector stores: comparisons, `and`, `or`, nested.

Values are typed: 3 equals 3.0, and no number equals a string. A document without the attribute matches `ne` and `nin`,
the complements of `eq` and `in`, and no other comparison.
Source: https://platform.openai.com/docs/guides/retrieval, "Attribute filtering".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from google.protobuf.struct_pb2 import Struct

from drw.kernel.attributes import MAX_NUMBER, Scalar
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.json_messages import to_json

EQUALITY, ORDERING, MEMBERSHIP, COMPOUND = ("eq", "ne"), ("gt", "gte", "lt", "lte"), ("in", "nin"), ("and", "or")
TYPES = (*EQUALITY, *ORDERING, *MEMBERSHIP, *COMPOUND)
MAX_DEPTH = 8
MAX_COMPARISONS = 128
MAX_VALUES = 512
"""Maximum values of one list, and of all comparisons of a filter together."""
MAX_KEY_LENGTH, MAX_VALUE_LENGTH = 64, 512


@dataclass(frozen=True, slots=True)
class Comparison:
    """Compares one attribute with one value, or with several (`in`, `nin`)."""

    type: str
    key: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Compound:
    """Combines filters: all of them (`and`), or any (`or`)."""

    type: str
    filters: tuple[Filter, ...]


Filter = Comparison | Compound


def parse(value: Any, param: str = "filter") -> Filter:
    """Parse a filter from JSON values; `param` is the name of its field, which error messages begin with.

    Raises:
        InvalidRequest: the filter is invalid or too large; the message contains the path of the invalid part.
    """
    return _Parser().filter(value, param, 1)


def from_struct(value: Struct, param: str = "filter") -> Filter | None:
    """Parse the filter of a message; None if it is empty.

    Raises:
        InvalidRequest: the filter is invalid or too large; the message contains the path of the invalid part.
    """
    return parse(to_json(value), param) if value.fields else None


def equal_to(attributes: Mapping[str, Scalar]) -> Filter | None:
    """Return the filter that matches documents with all of these values; None without attributes."""
    filters = tuple(Comparison("eq", key, (value,)) for key, value in sorted(attributes.items()))
    return Compound("and", filters) if filters else None


def all_of(first: Filter | None, second: Filter | None) -> Filter | None:
    """Return the conjunction of two filters, either of which can be None."""
    if first and second:
        return Compound("and", (first, second))
    return first or second


class _Parser:
    """Parses one filter and counts its comparisons and values."""

    def __init__(self) -> None:
        self._comparisons = 0
        self._values = 0

    def filter(self, value: Any, path: str, depth: int) -> Filter:
        if not isinstance(value, Mapping):
            _reject(path, f"must be an object, not {_quoted(value)}")
        kind = value.get("type")
        if kind not in TYPES:
            _reject(f"{path}.type", f"is {_quoted(kind)}; it can be: {', '.join(TYPES)}")
        if depth > MAX_DEPTH:
            _reject(path, f"is nested more than {MAX_DEPTH} deep")
        if kind in COMPOUND:
            return self._compound(kind, value, path, depth)
        return self._comparison(kind, value, path)

    def _compound(self, kind: str, value: Mapping[str, Any], path: str, depth: int) -> Compound:
        _check_fields(value, ("type", "filters"), path)
        filters = value["filters"]
        if not isinstance(filters, Sequence) or isinstance(filters, str) or not filters:
            _reject(f"{path}.filters", "must be a list of at least one filter")
        if len(filters) > MAX_COMPARISONS:
            _reject(f"{path}.filters", f"has {len(filters)} filters; at most {MAX_COMPARISONS}")
        return Compound(
            kind, tuple(self.filter(nested, f"{path}.filters[{n}]", depth + 1) for n, nested in enumerate(filters))
        )

    def _comparison(self, kind: str, value: Mapping[str, Any], path: str) -> Comparison:
        _check_fields(value, ("type", "key", "value"), path)
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            _reject(path, f"is one comparison too many; a filter has at most {MAX_COMPARISONS}")
        key = value["key"]
        if not isinstance(key, str) or not 1 <= len(key) <= MAX_KEY_LENGTH or not _is_storable(key):
            _reject(f"{path}.key", f"is {_quoted(key)}; it must be a string of 1 to {MAX_KEY_LENGTH} characters")
        if kind in MEMBERSHIP:
            return Comparison(kind, key, self._scalars(value["value"], f"{path}.value"))
        scalar = self._scalar(value["value"], f"{path}.value")
        if kind in ORDERING and isinstance(scalar, bool):
            _reject(f"{path}.value", f"is {_quoted(scalar)}; {kind} takes a number, or a string, which has an order")
        return Comparison(kind, key, (scalar,))

    def _scalars(self, value: Any, path: str) -> tuple[Scalar, ...]:
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            _reject(path, "must be a list of at least one value")
        return tuple(self._scalar(item, f"{path}[{n}]") for n, item in enumerate(value))

    def _scalar(self, value: Any, path: str) -> Scalar:
        self._values += 1
        if self._values > MAX_VALUES:
            _reject(path, f"is one value too many; a filter has at most {MAX_VALUES}")
        if not isinstance(value, str | bool | int | float):
            _reject(path, f"is {_quoted(value)}; it must be a string, a number or a boolean")
        if isinstance(value, str) and (len(value) > MAX_VALUE_LENGTH or not _is_storable(value)):
            _reject(path, f"must have at most {MAX_VALUE_LENGTH} characters, none of them NUL or half of a pair")
        if isinstance(value, int | float) and not -MAX_NUMBER <= value <= MAX_NUMBER:
            _reject(path, f"is {_quoted(value)}; a number is from -2^53 to 2^53")
        return value


def _check_fields(value: Mapping[str, Any], names: tuple[str, ...], path: str) -> None:
    for name in value.keys() - set(names):
        _reject(f"{path}.{name[:MAX_KEY_LENGTH]}", f"is not a field of this filter; there are: {', '.join(names)}")
    for name in names:
        if name not in value:
            _reject(f"{path}.{name}", "is missing")


def _is_storable(text: str) -> bool:
    """Return whether PostgreSQL can store a text: no NUL, no lone surrogate."""
    return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text)


def _quoted(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | bool | None) else f"of the type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:80]}…"


def _reject(path: str, message: str) -> NoReturn:
    raise InvalidRequest(f"{path} {message}", param=path)
