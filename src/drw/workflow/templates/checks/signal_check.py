"""Checks `wait` nodes with a signal: callers of the API validate payloads against what the template declares."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

from drw.workflow.templates.json_schema import schema_error
from drw.workflow.templates.problems import Problem
from drw.workflow.templates.schema import NodeSource
from drw.workflow.templates.yaml_source import Path, Positions

NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
OF_SIGNALS = ("schema", "deadline_seconds", "if_late")
OF_TIMES = ("seconds", "until")


def check(nodes: Iterable[tuple[NodeSource, Path]], positions: Positions) -> Iterator[Problem]:
    """Yield the problems of the `wait` nodes."""
    schemas: dict[str, str] = {}
    for node, path in nodes:
        if node.uses != "wait":
            continue
        if "signal" not in node.with_:
            for name in (name for name in OF_SIGNALS if name in node.with_):
                message = f"a 'wait' accepts {name!r} only with 'signal'"
                yield positions.problem((*path, "with", name), message, at_key=True)
            continue
        for name in (name for name in OF_TIMES if name in node.with_):
            message = f"a 'wait' with 'signal' does not accept {name!r}; use 'deadline_seconds'"
            yield positions.problem((*path, "with", name), message, at_key=True)
        yield from _signal(node, path, positions, schemas)


def _signal(node: NodeSource, path: Path, positions: Positions, schemas: dict[str, str]) -> Iterator[Problem]:
    name, schema = node.with_["signal"], node.with_.get("schema", {})
    if not isinstance(name, str) or not NAME.fullmatch(name):
        message = "signal must be a name of lower-case letters, digits and _, and not an expression"
        yield positions.problem((*path, "with", "signal"), message)
        return
    if not isinstance(schema, dict) or "${" in json.dumps(schema):
        yield positions.problem((*path, "with", "schema"), "schema must be a JSON Schema without expressions")
        return
    if reason := schema_error(schema):
        yield positions.problem((*path, "with", "schema"), f"not a JSON Schema: {reason}", at_key=True)
    canonical = json.dumps(schema, sort_keys=True)
    if schemas.setdefault(name, canonical) != canonical:
        message = f"another node that waits for the signal {name!r} has another schema"
        yield positions.problem((*path, "with"), message, at_key=True)
