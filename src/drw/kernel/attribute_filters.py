"""Filters over attributes, in the form of OpenAI's vector stores: comparisons, `and`, `or`, nested.

Values are typed: 3 equals 3.0, and no number equals a string. A document that lacks the attribute is taken by `ne` and
`nin`, which are exactly what `eq` and `in` leave out, and by no other comparison.
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

EQUAL, ORDER, LISTS, COMPOUND = ("eq", "ne"), ("gt", "gte", "lt", "lte"), ("in", "nin"), ("and", "or")
TYPES = (*EQUAL, *ORDER, *LISTS, *COMPOUND)
MAX_DEPTH = 8
MAX_COMPARISONS = 128
MAX_VALUES = 512
"""Of one list, and of all comparisons together."""
MAX_KEY, MAX_VALUE = 64, 512


@dataclass(frozen=True, slots=True)
class Comparison:
    """One attribute against one value, or against any of several with `in` and `nin`."""

    type: str
    key: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Compound:
    """All of the parts (`and`), or any (`or`)."""

    type: str
    parts: tuple[Filter, ...]


Filter = Comparison | Compound


def parse(value: Any, param: str = "filter") -> Filter:
    """Return a filter that came as JSON; `param` is where it stood, and begins the path in a message.

    Raises:
        InvalidRequest: it is none, or is too large; the message names the place.
    """
    return _Parser().filter(value, param, 1)


def from_struct(value: Struct, param: str = "filter") -> Filter | None:
    """Return the filter of a message; None where it is empty, which is where there is none.

    Raises:
        InvalidRequest: it is none, or is too large; the message names the place.
    """
    return parse(to_json(value), param) if value.fields else None


def equal_to(attributes: Mapping[str, Scalar]) -> Filter | None:
    """Return the filter that takes documents with all of these values; None where there are none."""
    parts = tuple(Comparison("eq", key, (value,)) for key, value in sorted(attributes.items()))
    return Compound("and", parts) if parts else None


def both(first: Filter | None, second: Filter | None) -> Filter | None:
    """Return the filter that takes what each of two takes, of which either may be missing."""
    if first and second:
        return Compound("and", (first, second))
    return first or second


class _Parser:
    """Counts what one filter has, over all of its parts."""

    def __init__(self) -> None:
        self._comparisons = 0
        self._values = 0

    def filter(self, value: Any, path: str, depth: int) -> Filter:
        if not isinstance(value, Mapping):
            _refuse(path, f"must be an object, not {_shown(value)}")
        kind = value.get("type")
        if kind not in TYPES:
            _refuse(f"{path}.type", f"is {_shown(kind)}; it can be: {', '.join(TYPES)}")
        if depth > MAX_DEPTH:
            _refuse(path, f"is nested more than {MAX_DEPTH} deep")
        if kind in COMPOUND:
            return self._compound(kind, value, path, depth)
        return self._comparison(kind, value, path)

    def _compound(self, kind: str, value: Mapping[str, Any], path: str, depth: int) -> Compound:
        _only(value, ("type", "filters"), path)
        parts = value["filters"]
        if not isinstance(parts, Sequence) or isinstance(parts, str) or not parts:
            _refuse(f"{path}.filters", "must be a list of at least one filter")
        if len(parts) > MAX_COMPARISONS:
            _refuse(f"{path}.filters", f"has {len(parts)} filters; at most {MAX_COMPARISONS}")
        return Compound(
            kind, tuple(self.filter(part, f"{path}.filters[{n}]", depth + 1) for n, part in enumerate(parts))
        )

    def _comparison(self, kind: str, value: Mapping[str, Any], path: str) -> Comparison:
        _only(value, ("type", "key", "value"), path)
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            _refuse(path, f"is one comparison too many; a filter has at most {MAX_COMPARISONS}")
        key = value["key"]
        if not isinstance(key, str) or not 1 <= len(key) <= MAX_KEY or not _can_be_kept(key):
            _refuse(f"{path}.key", f"is {_shown(key)}; it must be a string of 1 to {MAX_KEY} characters")
        if kind in LISTS:
            return Comparison(kind, key, self._list(value["value"], f"{path}.value"))
        scalar = self._scalar(value["value"], f"{path}.value")
        if kind in ORDER and isinstance(scalar, bool):
            _refuse(f"{path}.value", f"is {_shown(scalar)}; {kind} takes a number, or a string, which has an order")
        return Comparison(kind, key, (scalar,))

    def _list(self, value: Any, path: str) -> tuple[Scalar, ...]:
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            _refuse(path, "must be a list of at least one value")
        return tuple(self._scalar(item, f"{path}[{n}]") for n, item in enumerate(value))

    def _scalar(self, value: Any, path: str) -> Scalar:
        self._values += 1
        if self._values > MAX_VALUES:
            _refuse(path, f"is one value too many; a filter has at most {MAX_VALUES}")
        if not isinstance(value, str | bool | int | float):
            _refuse(path, f"is {_shown(value)}; it must be a string, a number or a boolean")
        if isinstance(value, str) and (len(value) > MAX_VALUE or not _can_be_kept(value)):
            _refuse(path, f"must have at most {MAX_VALUE} characters, none of them NUL or half of a pair")
        if isinstance(value, int | float) and not -MAX_NUMBER <= value <= MAX_NUMBER:
            _refuse(path, f"is {_shown(value)}; a number is from -2^53 to 2^53")
        return value


def _only(value: Mapping[str, Any], names: tuple[str, ...], path: str) -> None:
    for name in value.keys() - set(names):
        _refuse(f"{path}.{name[:MAX_KEY]}", f"is not a field of this filter; there are: {', '.join(names)}")
    for name in names:
        if name not in value:
            _refuse(f"{path}.{name}", "is missing")


def _can_be_kept(text: str) -> bool:
    """Return whether PostgreSQL can hold a text: no NUL, and no half of a surrogate pair."""
    return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text)


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | bool | None) else f"of the type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:80]}…"


def _refuse(path: str, message: str) -> NoReturn:
    raise InvalidRequest(f"{path} {message}", param=path)
