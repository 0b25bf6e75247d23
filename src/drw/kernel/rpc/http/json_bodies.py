"""Parsing of JSON bodies; duplicate keys are rejected (RFC 8259, section 4: their meaning is not defined)."""

from __future__ import annotations

from typing import Any

import jiter
import orjson

from drw.kernel.errors import InvalidRequest


def json_object(raw: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        InvalidRequest: the body is not a JSON object, or has a duplicate key.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object")
    check_keys(raw)
    return value


def check_keys(raw: bytes) -> None:
    """Raise `InvalidRequest` if a JSON object has a duplicate key or is nested too deeply."""
    try:
        jiter.from_json(raw, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as error:
        message = str(error)
        raise InvalidRequest(f"the body is not valid JSON: {message[:1].lower()}{message[1:]}") from None
