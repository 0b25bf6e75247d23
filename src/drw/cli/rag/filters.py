"""Parser of attribute filters on the command line."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from drw.kernel.errors import InvalidRequest

SYNTAX = "KEY, one of = != < <= > >=, and VALUE: a number, true, false or text; or OpenAI's filters as JSON."
TYPES = {"=": "eq", "!=": "ne", "<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
COMPARISON = re.compile(r"\s*([^=!<>]+?)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*", re.DOTALL)


def parse_filters(texts: Sequence[str] | None) -> dict[str, Any]:
    """Return the conjunction of the filters, or an empty filter.

    Raises:
        InvalidRequest: a filter is neither a comparison nor JSON.
    """
    parsed = [_parse_filter(text) for text in texts or ()]
    if len(parsed) > 1:
        return {"type": "and", "filters": parsed}
    return parsed[0] if parsed else {}


def parse_attributes(texts: Sequence[str]) -> dict[str, Any]:
    """Parse attributes of the form KEY=VALUE.

    Raises:
        InvalidRequest: an attribute does not have this form.
    """
    attributes = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not (separator and key.strip()):
            raise InvalidRequest(f"{text!r} is not KEY=VALUE, for example year=2025")
        attributes[key.strip()] = _parse_value(value.strip())
    return attributes


def _parse_filter(text: str) -> Any:
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except ValueError as error:
            raise InvalidRequest(f"the filter {text!r} is not JSON: {error}") from None
    if (match := COMPARISON.fullmatch(text)) is None:
        raise InvalidRequest(f"{text!r} is not a filter. Expected: {SYNTAX}")
    return {"type": TYPES[match[2]], "key": match[1], "value": _parse_value(match[3])}


def _parse_value(text: str) -> Any:
    """Return the JSON number, boolean or string in a value, or else the text itself."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if isinstance(value, float) and not math.isfinite(value):  # `NaN` and `Infinity` are not JSON, and may be text
        return text
    return value if isinstance(value, str | int | float | bool) else text
