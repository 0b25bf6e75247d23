"""Checks the form and the approvers of `approval` nodes, where they have no expressions."""

from __future__ import annotations

import re
from collections.abc import Iterator

import orjson
from pydantic import JsonValue

from drw.kernel.scopes import SCOPES
from drw.workflow.templates.json_schema import schema_error
from drw.workflow.templates.problems import Problem, nearest
from drw.workflow.templates.schema import NodeSource
from drw.workflow.templates.yaml_source import Path, Positions

APPROVER = re.compile(r"desk:[a-z0-9][a-z0-9_-]{0,62}|scope:[a-z]+:[a-z]+|caller:[!-~]{1,200}")


def problems(node: NodeSource, path: Path, positions: Positions) -> Iterator[Problem]:
    """Yield the mistakes of an approval; none for other nodes."""
    if node.uses != "approval":
        return
    place: Path = (*path, "with")
    form = node.with_.get("form")
    if isinstance(form, dict) and not _has_expressions(form) and (reason := _form_error(form)):
        yield positions.problem((*place, "form"), f"form: {reason}", at_key=True)
    yield from _approvers(node.with_.get("approvers"), (*place, "approvers"), positions)
    escalation = node.with_.get("escalation")
    for number, stage in enumerate(escalation if isinstance(escalation, list) else []):
        if isinstance(stage, dict):
            yield from _approvers(stage.get("to"), (*place, "escalation", number, "to"), positions)


def _form_error(form: dict[str, JsonValue]) -> str:
    if form.get("type") != "object":
        return "it must have 'type: object'"
    reason = schema_error(form)
    return f"not a JSON Schema: {reason}" if reason else ""


def _approvers(approvers: JsonValue, path: Path, positions: Positions) -> Iterator[Problem]:
    for number, approver in enumerate(approvers if isinstance(approvers, list) else []):
        if not isinstance(approver, str) or _has_expressions(approver):
            continue
        if not APPROVER.fullmatch(approver):
            message = f"{approver!r} is not an approver: write desk:NAME, scope:NAME or caller:ID"
            yield positions.problem((*path, number), message)
        elif approver.startswith("scope:") and (scope := approver.removeprefix("scope:")) not in SCOPES:
            yield positions.problem((*path, number), f"{scope!r} is not a scope; {nearest(scope, SCOPES)}")


def _has_expressions(value: JsonValue) -> bool:
    return b"${" in orjson.dumps(value)
