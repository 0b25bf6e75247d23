"""Limits of JSON schemas, checked before an engine compiles them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drw.models.serving.openai.regex_limits import LOOK_AROUND, PatternError, check_pattern

Path = tuple[str, ...]

MAX_DEPTH = 64
MAX_ITEMS = 10_000
MAX_LENGTH = 100_000
TOTALS = {"nodes": 10_000, "enum values": 1000, "alternatives": 256, "references": 1000}
"""Maximum of each in one schema."""
MAX_VALUES = {
    **dict.fromkeys(
        ("minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains"), MAX_ITEMS
    ),
    **dict.fromkeys(("minLength", "maxLength"), MAX_LENGTH),
}
DATA_KEYWORDS = {"const", "enum", "default", "example", "examples"}
"""Keywords with values instead of schemas."""
SCHEMA_MAP_KEYWORDS = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
"""Keywords with a map of names to schemas."""


class SchemaError(ValueError):
    """A schema exceeds a limit; the message has a JSON pointer and the limit."""


def check_schema(schema: dict[str, Any], *, strict: bool = True) -> None:
    """Reject a schema that is too large, too deep or expensive to enforce.

    Schemas without `strict` can have patterns with look-around, such as pydantic's for decimal numbers: engines are
    allowed to ignore them.

    Raises:
        SchemaError: the first fault.
    """
    totals = dict.fromkeys(TOTALS, 0)
    stack: list[tuple[Path, Any, str]] = [((), schema, "schema")]
    while stack:
        path, node, kind = stack.pop()
        if len(path) > MAX_DEPTH:
            raise SchemaError(f"{_pointer(path[:8])}: nested deeper than {MAX_DEPTH} levels")
        _add_counts(path, {"nodes": 1}, totals)
        if isinstance(node, list):
            stack += (((*path, str(index)), value, kind) for index, value in enumerate(node))
        elif isinstance(node, dict):
            if kind == "schema":
                _add_counts(path, _node_counts(node), totals)
                _check_keywords(path, node, look_around=not strict)
            stack += (((*path, key), value, _kind(key, kind)) for key, value in node.items())


def without_look_around(schema: Any) -> Any:
    """Return a schema without patterns that have a look-around."""
    if isinstance(schema, list):
        return [without_look_around(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value if key in DATA_KEYWORDS else without_look_around(value)
        for key, value in schema.items()
        if not (key == "pattern" and isinstance(value, str) and LOOK_AROUND.search(value))
    }


def _kind(key: str, parent: str) -> str:
    """Return the kind of value below a key: schema, map of names to schemas, or data."""
    if parent != "schema":
        return "schema" if parent == "named" else parent
    return "data" if key in DATA_KEYWORDS else "named" if key in SCHEMA_MAP_KEYWORDS else "schema"


def _add_counts(path: Path, counts: Mapping[str, int], totals: dict[str, int]) -> None:
    for name, count in counts.items():
        totals[name] += count
        if totals[name] > TOTALS[name]:
            raise SchemaError(f"{_pointer(path)}: more than {TOTALS[name]} {name} in one schema")


def _node_counts(node: dict[str, Any]) -> dict[str, int]:
    enum = node.get("enum")
    choices = [node.get(name) for name in ("anyOf", "oneOf", "allOf")]
    return {
        "enum values": len(enum) if isinstance(enum, list) else 0,
        "alternatives": sum(len(choice) for choice in choices if isinstance(choice, list)),
        "references": int("$ref" in node),
    }


def _check_keywords(path: Path, node: dict[str, Any], *, look_around: bool) -> None:
    for name, maximum in MAX_VALUES.items():
        value = node.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and not 0 <= value <= maximum:
            raise SchemaError(f"{_pointer((*path, name))}: {value!r} is not from 0 to {maximum}")
    reference = node.get("$ref")
    if isinstance(reference, str) and not reference.startswith("#"):
        raise SchemaError(
            f"{_pointer((*path, '$ref'))}: {reference[:80]!r} is outside of the schema; use '#/$defs/NAME'"
        )
    if isinstance(pattern := node.get("pattern"), str):
        _check_pattern((*path, "pattern"), pattern, look_around=look_around)
    if isinstance(patterns := node.get("patternProperties"), dict):
        for pattern in patterns:
            _check_pattern((*path, "patternProperties"), pattern)


def _check_pattern(path: Path, pattern: str, *, look_around: bool = False) -> None:
    try:
        check_pattern(pattern, look_around=look_around)
    except PatternError as error:
        raise SchemaError(f"{_pointer(path)}: the pattern {pattern[:80]!r} is rejected: {error}") from error


def _pointer(path: Path) -> str:
    return "#" + "".join("/" + part.replace("~", "~0").replace("/", "~1")[:64] for part in path)
