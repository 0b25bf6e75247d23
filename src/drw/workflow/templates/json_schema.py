"""Checks the JSON Schemas of a template."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs


def schema_error(schema: dict[str, Any]) -> str:
    """Return why a schema is invalid; empty: it is valid."""
    if '"$ref":"' in json.dumps(schema, separators=(",", ":")).replace('"$ref":"#', ""):
        return "a $ref must be to a part of the same schema"
    try:
        jsonschema_rs.meta.validate(schema)
        jsonschema_rs.validator_for(schema)
    except (ValueError, TypeError) as error:
        return str(error).splitlines()[0]
    return ""
