"""Renders the `${...}` expressions of a template."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from drw.kernel.errors import InvalidRequest

REFERENCE = re.compile(r"\$\{([^{}]*)\}")


def render(value: Any, scope: Mapping[str, Any]) -> Any:
    """Return the value with all references replaced. A string that is a single reference keeps the type of the value.

    Raises:
        InvalidRequest: a reference cannot be resolved; the message names it.
    """
    if isinstance(value, str):
        if reference := REFERENCE.fullmatch(value):
            return _resolve(reference[1], scope)
        return REFERENCE.sub(lambda match: _to_text(_resolve(match[1], scope)), value)
    if isinstance(value, dict):
        return {key: render(item, scope) for key, item in value.items()}
    if isinstance(value, list):
        return [render(item, scope) for item in value]
    return value


def _resolve(path: str, scope: Mapping[str, Any]) -> Any:
    value: Any = scope
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise InvalidRequest(f"${{{path}}}: there is no {part!r}")
        value = value[part]
    return value


def _to_text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
