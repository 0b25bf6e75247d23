"""Generates the JSON Schema of workflow templates, with which editors complete and check them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from drw.workflow.templates.activities import ACTIVITIES, ARGUMENTS_OF_CONTROL, WAITING, Activity
from drw.workflow.templates.schema import TemplateSource

PATH = "docs/reference/template.v1.schema.json"
JSON_TYPES = {"string": "string", "int": "integer", "double": "number", "bool": "boolean", "map": "object"}


def files() -> dict[str, str]:
    """Return the schema by its path."""
    return {PATH: json.dumps(template_schema(), indent=2, ensure_ascii=False) + "\n"}


def template_schema() -> dict[str, Any]:
    """Return the JSON Schema of format 1."""
    schema = TemplateSource.model_json_schema(by_alias=True)
    activities = {**ACTIVITIES, **ARGUMENTS_OF_CONTROL}
    node = schema["$defs"]["NodeSource"]
    node["properties"]["uses"]["enum"] = sorted(activities)
    node["allOf"] = _arguments_of_each(activities)
    compensation = schema["$defs"]["CompensationSource"]
    compensation["properties"]["uses"]["enum"] = sorted(ACTIVITIES.keys() - set(WAITING))
    compensation["allOf"] = _arguments_of_each({name: ACTIVITIES[name] for name in ACTIVITIES if name not in WAITING})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _arguments_of_each(activities: Mapping[str, Activity]) -> list[dict[str, Any]]:
    return [
        {
            "if": {"properties": {"uses": {"const": name}}, "required": ["uses"]},
            "then": _node_schema(activities[name]),
        }
        for name in sorted(activities)
    ]


def _node_schema(activity: Activity) -> dict[str, Any]:
    types = {**activity.required, **activity.optional}
    arguments = {
        "properties": {name: _argument(of) for name, of in types.items()},
        "required": sorted(activity.required),
        "additionalProperties": False,
    }
    return {"properties": {"with": arguments}} | ({"required": ["with"]} if activity.required else {})


def _argument(cel_type: str) -> dict[str, Any]:
    if cel_type in ("dyn", "string"):
        return {} if cel_type == "dyn" else {"type": "string"}
    name = "array" if cel_type.startswith("list(") else JSON_TYPES[cel_type]
    return {"anyOf": [{"type": name}, {"type": "string", "pattern": r"^\$\{.*\}$"}]}
