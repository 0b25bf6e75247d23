"""The JSON Schema of a step's output."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jsonschema_rs
import orjson

from drw.api.workflow.v1.templates_pb2 import Node
from drw.kernel.errors import InvalidRequest


def check(node: Node, output: Any) -> None:
    """Check the output of a node.

    Raises:
        InvalidRequest: it does not match the schema of the node; the message has the path, but no value.
    """
    if not node.output_schema_json:
        return
    if (error := next(_validator(node.output_schema_json).iter_errors(output), None)) is not None:
        place = ".".join(map(str, error.instance_path)) or "the output"
        rule = "/".join(map(str, error.schema_path))
        raise InvalidRequest(f"its output does not match output_schema: {place} breaks the rule {rule!r}")


@lru_cache(maxsize=200)
def _validator(schema: str) -> Any:
    return jsonschema_rs.validator_for(orjson.loads(schema))
