"""Template parser: converts YAML to the contract's message, with precise errors."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import orjson
from pydantic import ValidationError

from drw.api.workflow.v1.templates_pb2 import Input, Node, Template
from drw.kernel.errors import InvalidRequest
from drw.workflow.templates import expression_references, topological_sort, yaml_source
from drw.workflow.templates.activities import ACTIVITIES
from drw.workflow.templates.schema import InputSource, NodeSource, TemplateSource


def parse(source: bytes, location: str) -> Template:
    """Return the template in a YAML source; `location` names the source in errors.

    Raises:
        InvalidRequest: the source is not a valid template; the message names the key or the node.
    """
    data = yaml_source.load(source, location)
    try:
        source_model = TemplateSource.model_validate(data)
        nodes = topological_sort.sort_nodes(source_model.nodes)
        for node in nodes:
            _check_activity(node)
        expression_references.check(source_model, topological_sort.ancestors(nodes))
        return Template(
            name=source_model.name,
            version=hashlib.sha256(source).hexdigest(),
            description=source_model.description,
            inputs=[_input(name, input_source) for name, input_source in source_model.inputs.items()],
            nodes=[_node(node) for node in nodes],
            output=source_model.output,
            source=source.decode(),
        )
    except ValidationError as error:
        raise InvalidRequest(f"{location}: {_validation_errors(error, data)}") from None
    except InvalidRequest as error:
        raise InvalidRequest(f"{location}: {error.message}") from None


def _check_activity(node: NodeSource) -> None:
    activity = ACTIVITIES.get(node.uses)
    if activity is None:
        names = ", ".join(sorted(ACTIVITIES))
        raise InvalidRequest(f"node {node.id!r} uses {node.uses!r}, which is not an activity; there are: {names}")
    arguments = node.with_.keys()
    if missing := activity.required - arguments:
        raise InvalidRequest(f"node {node.id!r}: {node.uses!r} needs {_quoted(missing)} under 'with'")
    if unknown := arguments - activity.required - activity.optional:
        accepted = _quoted(activity.required | activity.optional)
        raise InvalidRequest(
            f"node {node.id!r}: {node.uses!r} does not accept {_quoted(unknown)}; it accepts {accepted}"
        )


def _input(name: str, source: InputSource) -> Input:
    return Input(
        name=name,
        type=source.type,
        required=source.required,
        default=source.default,
        description=source.description,
    )


def _node(node: NodeSource) -> Node:
    return Node(
        id=node.id,
        uses=node.uses,
        needs=node.needs,
        with_json=_arguments_json(node),
        for_each=node.for_each,
        max_attempts=node.max_attempts,
        timeout_seconds=node.timeout_seconds,
    )


def _arguments_json(node: NodeSource) -> str:
    try:
        json.dumps(node.with_, allow_nan=False)  # orjson writes `.inf` and `.nan` as null
        return orjson.dumps(node.with_).decode()
    except (ValueError, TypeError) as error:
        raise InvalidRequest(f"node {node.id!r}: 'with' has a value that JSON cannot represent: {error}") from error


def _validation_errors(error: ValidationError, data: dict[str, Any]) -> str:
    return "; ".join(
        f"{_path_text(problem['loc'], data)}: "
        + ("unknown key" if problem["type"] == "extra_forbidden" else problem["msg"])
        for problem in error.errors()
    )


def _path_text(path: tuple[int | str, ...], data: dict[str, Any]) -> str:
    if len(path) > 1 and path[0] == "nodes" and isinstance(path[1], int):
        node = data["nodes"][path[1]]
        name = node.get("id") if isinstance(node, dict) else None
        return ".".join([f"node {name!r}" if name else f"node number {path[1] + 1}", *map(str, path[2:])])
    return ".".join(map(str, path))


def _quoted(names: Any) -> str:
    return ", ".join(repr(name) for name in sorted(names))
