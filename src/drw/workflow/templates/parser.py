"""Template parser: converts YAML to the contract's message. It reports all mistakes, with their positions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import orjson
from pydantic import BaseModel, ValidationError

from drw.api.workflow.v1.templates_pb2 import Block, Input, Node, Template
from drw.kernel.errors import InvalidRequest
from drw.workflow.templates import yaml_source
from drw.workflow.templates.checks import approval_check, environment_check, node_check, signal_check
from drw.workflow.templates.checks.environment_check import Environment
from drw.workflow.templates.checks.expression_check import condition_of
from drw.workflow.templates.checks.graph_check import sort_nodes
from drw.workflow.templates.json_schema import schema_error
from drw.workflow.templates.problems import InvalidTemplate, Problem, nearest
from drw.workflow.templates.schema import CaseSource, CompensationSource, InputSource, NodeSource, TemplateSource
from drw.workflow.templates.yaml_source import Path, Positions


def parse(source: bytes, location: str, environment: Environment | None = None) -> Template:
    """Return the template in a YAML source; `location` names the source in errors.

    With an environment, the template must also use nothing else than what is declared there.

    Raises:
        InvalidTemplate: the source is not a valid template; it lists all mistakes.
        TooLarge: the source is too large.
    """
    data, positions = yaml_source.load(source, location)
    try:
        template = TemplateSource.model_validate(data)
    except ValidationError as error:
        raise InvalidTemplate(location, sorted(_schema_problems(error, positions))) from None
    problems = [*node_check.check(template, positions), *_json_problems(template, positions)]
    problems += signal_check.check(node_check.all_nodes(template.nodes, ("nodes",)), positions)
    if environment and not problems:
        problems += environment_check.check(template, positions, environment)
    if problems:
        raise InvalidTemplate(location, sorted(set(problems)))
    return Template(
        name=template.name,
        version=hashlib.sha256(source).hexdigest(),
        description=template.description,
        inputs=[_input(name, input_source) for name, input_source in template.inputs.items()],
        nodes=_nodes(template.nodes),
        output=template.output if isinstance(template.output, str) else "",
        output_json=_dumps(template.output),
        source=source.decode(),
        retention_days=template.retention_days,
    )


def parse_stored(source: bytes, location: str) -> Template:
    """Return the template in a source like `parse`, from a cache: parsing costs more than starting a run otherwise."""
    return Template.FromString(_serialised(source, location))


@lru_cache(maxsize=500)
def _serialised(source: bytes, location: str) -> bytes:
    return parse(source, location).SerializeToString()


def validate(source: bytes, location: str, environment: Environment | None = None) -> list[Problem]:
    """Return the mistakes of a source; empty: it is valid."""
    try:
        parse(source, location, environment)
    except InvalidTemplate as error:
        return list(error.problems)
    except InvalidRequest as error:
        return [Problem(1, 1, error.message)]
    return []


def _input(name: str, source: InputSource) -> Input:
    default = source.default
    text = "" if default is None else default if isinstance(default, str) else _dumps(default)
    return Input(name=name, type=source.type, required=source.required, default=text, description=source.description)


def _nodes(nodes: Sequence[NodeSource]) -> list[Node]:
    return [_node(node) for node in sort_nodes(nodes)]


def _node(node: NodeSource) -> Node:
    body = [Block(nodes=_nodes(node.nodes), output_json=_dumps(node.output))] if node.nodes else []
    return Node(
        id=node.id,
        uses=node.uses,
        needs=node.needs,
        with_json=_dumps(node.with_),
        for_each=node.for_each,
        max_attempts=node.max_attempts,
        timeout_seconds=node.timeout_seconds,
        blocks=body or [_case(case) for case in node.cases],
        until=condition_of(node.until) or "",
        output_schema_json=_dumps(node.output_schema) if node.output_schema else "",
        idempotency_key=node.idempotency_key,
        compensate=_compensation(node.compensate) if node.compensate else None,
    )


def _compensation(source: CompensationSource) -> Node:
    return Node(
        uses=source.uses,
        with_json=_dumps(source.with_),
        max_attempts=source.max_attempts,
        timeout_seconds=source.timeout_seconds,
        idempotency_key=source.idempotency_key,
    )


def _case(case: CaseSource) -> Block:
    return Block(nodes=_nodes(case.nodes), output_json=_dumps(case.output), when=condition_of(case.when) or "")


def _json_problems(template: TemplateSource, positions: Positions) -> Iterator[Problem]:
    """Yield values that JSON cannot represent, and schemas that are not JSON Schema."""
    values: list[tuple[Path, Any]] = [(("output",), template.output)]
    values += [(("inputs", name, "default"), source.default) for name, source in template.inputs.items()]
    for node, path in node_check.all_nodes(template.nodes, ("nodes",)):
        values += [((*path, "with"), node.with_), ((*path, "output"), node.output)]
        values += [((*path, "cases", n, "output"), case.output) for n, case in enumerate(node.cases)]
        values.append(((*path, "output_schema"), node.output_schema))
        yield from approval_check.problems(node, path, positions)
        if node.compensate:
            values.append(((*path, "compensate", "with"), node.compensate.with_))
        if node.output_schema and (reason := schema_error(node.output_schema)):
            yield positions.problem((*path, "output_schema"), f"not a JSON Schema: {reason}", at_key=True)
    for path, value in values:
        try:
            json.dumps(value, allow_nan=False)  # orjson writes `.inf` and `.nan` as null
            _dumps(value)
        except (ValueError, TypeError) as error:
            yield positions.problem(path, f"JSON cannot represent a value: {error}", at_key=True)


def _dumps(value: Any) -> str:
    return orjson.dumps(value).decode()


def _schema_problems(error: ValidationError, positions: Positions) -> Iterator[Problem]:
    for problem in error.errors():
        path = problem["loc"]
        if problem["type"] == "extra_forbidden":
            names = [field.alias or name for name, field in _model_at(path).model_fields.items()]
            message = f"unknown key {path[-1]!r}; {nearest(str(path[-1]), names)}"
            yield positions.problem(path, message, at_key=True)
        elif problem["type"] == "missing":
            yield positions.problem(path[:-1], f"the key {path[-1]!r} is missing", at_key=True)
        else:
            yield positions.problem(path, f"{'.'.join(map(str, path))}: {problem['msg']}")


def _model_at(path: Path) -> type[BaseModel]:
    """Return the model of the mapping that has the key at the end of a path."""
    match path:
        case ("inputs", _, _):
            return InputSource
        case (*_, "compensate", _):
            return CompensationSource
        case (*_, "cases", int(), _):
            return CaseSource
        case (*_, "nodes", int(), _):
            return NodeSource
    return TemplateSource
