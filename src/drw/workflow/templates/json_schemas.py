"""Checks JSON Schemas in templates."""

from __future__ import annotations

import jsonschema_rs
import orjson
from pydantic import JsonValue


def error_of(schema: dict[str, JsonValue]) -> str:
    """Return why a value is not a JSON Schema that needs no other schema, or an empty string."""
    if '"$ref":"' in orjson.dumps(schema).decode().replace('"$ref":"#', ""):
        return "a $ref must be to a part of the same schema"
    try:
        jsonschema_rs.meta.validate(schema)
        jsonschema_rs.validator_for(schema)
    except (ValueError, TypeError) as error:
        return str(error).splitlines()[0]
    return ""
