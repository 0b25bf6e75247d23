"""Validates the inputs of a run against its template."""

from __future__ import annotations

from typing import Any

import orjson

from drw.api.workflow.v1.templates_pb2 import Input, Template
from drw.kernel.errors import InvalidRequest, TooLarge

MAX_INPUT_BYTES = 64 * 1024
"""Of all inputs, unless the caller stores larger ones as payloads."""
MAX_FILES = 500
MAX_FILE_ID_CHARACTERS = 200
TYPES: dict[int, tuple[type | tuple[type, ...], str]] = {
    Input.NUMBER: ((int, float), "a number"),
    Input.BOOLEAN: (bool, "true or false"),
    Input.LIST: (list, "a list"),
    Input.OBJECT: (dict, "an object"),
}


def validate(template: Template, values: dict[str, Any], max_bytes: int = MAX_INPUT_BYTES) -> dict[str, Any]:
    """Return all inputs of the template with their values or defaults.

    Raises:
        InvalidRequest: an input is unknown, missing, or has the wrong type; the message names it.
        TooLarge: the inputs are too large in total.
    """
    if (size := len(orjson.dumps(values))) > max_bytes:
        raise TooLarge(f"the inputs have {size} bytes; at most {max_bytes}", param="inputs")
    declared_names = {declared.name for declared in template.inputs}
    if unknown := sorted(values.keys() - declared_names):
        names = ", ".join(sorted(declared_names)) or "none"
        raise InvalidRequest(
            f"{unknown[0]!r} is not an input of the template {template.name!r}; there are: {names}", param=unknown[0]
        )
    return {declared.name: _value(declared, values.get(declared.name)) for declared in template.inputs}


def _value(declared: Input, value: Any) -> Any:
    if value is None and declared.required:
        raise InvalidRequest(f"the input {declared.name!r} is missing: {declared.description}", param=declared.name)
    match declared.type:
        case Input.FILES:
            return _files(declared, [] if value is None else value)
        case Input.NUMBER | Input.BOOLEAN | Input.LIST | Input.OBJECT:
            return _typed(declared, value)
        case Input.INTEGER:
            return _integer(declared, declared.default or 0 if value is None else value)
        case _:
            return _string(declared, declared.default if value is None else value)


def _typed(declared: Input, value: Any) -> Any:
    if value is None and declared.default:
        value = orjson.loads(declared.default)
    if value is None:
        return [] if declared.type == Input.LIST else None
    expected, name = TYPES[declared.type]
    if not isinstance(value, expected) or isinstance(value, bool) != (expected is bool):
        raise _invalid(declared, name)
    return value


def _files(declared: Input, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(
        isinstance(v, str) and 0 < len(v) <= MAX_FILE_ID_CHARACTERS for v in value
    ):
        raise _invalid(declared, "a list of file ids")
    if len(value) > MAX_FILES:
        raise TooLarge(f"the input {declared.name!r} has {len(value)} files; at most {MAX_FILES}", param=declared.name)
    if declared.required and not value:
        raise _invalid(declared, "a list of at least one file id")
    if len(set(value)) != len(value):
        raise _invalid(declared, "a list of different file ids")
    return value


def _integer(declared: Input, value: Any) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise _invalid(declared, "an integer") from None
    if isinstance(value, bool) or not number.is_integer() or abs(number) > 2**53:
        raise _invalid(declared, "an integer")
    return int(number)


def _string(declared: Input, value: Any) -> str:
    if not isinstance(value, str):
        raise _invalid(declared, "a string")
    return value


def _invalid(declared: Input, expected: str) -> InvalidRequest:
    return InvalidRequest(f"the input {declared.name!r} must be {expected}", param=declared.name)
