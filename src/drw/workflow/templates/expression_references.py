"""Finds the `${...}` expressions of a template and checks their references."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from drw.kernel.errors import InvalidRequest
from drw.workflow.templates.schema import NodeSource, TemplateSource

REFERENCE = re.compile(r"\$\{([^{}]*)\}")


def check(template: TemplateSource, ancestors: Mapping[str, frozenset[str]]) -> None:
    """Raise if a reference cannot be resolved when its node runs.

    `ancestors` maps each node to its ancestors, which have ended by then.

    Raises:
        InvalidRequest: the message names the node and the reference.
    """
    for node in template.nodes:
        _check_list(template, node)
        for path in references_in(node.with_):
            _check_path(template, f"node {node.id!r}", path, ancestors[node.id], has_item=bool(node.for_each))
    all_nodes = frozenset(node.id for node in template.nodes)
    for path in references_in(template.output):
        _check_path(template, "the output", path, all_nodes, has_item=False)


def references_in(value: Any) -> Iterator[str]:
    """Yield the contents of each `${...}` in a value."""
    if isinstance(value, str):
        if value.count("${") != len(REFERENCE.findall(value)):
            raise InvalidRequest(f"{value!r} has a '${{' without its '}}'")
        yield from REFERENCE.findall(value)
    elif isinstance(value, dict):
        for item in value.values():
            yield from references_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from references_in(item)


def _check_list(template: TemplateSource, node: NodeSource) -> None:
    if not node.for_each:
        return
    lists = [f"${{inputs.{name}}}" for name, source in template.inputs.items() if source.type == "FILES"]
    if node.for_each not in lists:
        choices = ", ".join(lists) or "none"
        raise InvalidRequest(f"node {node.id!r}: for_each is {node.for_each!r}; the lists of files are: {choices}")


def _check_path(
    template: TemplateSource, location: str, path: str, available: frozenset[str], *, has_item: bool
) -> None:
    match path.split("."):
        case ["inputs", name] if name in template.inputs:
            return
        case ["inputs", name]:
            raise InvalidRequest(
                f"{location}: ${{{path}}}: there is no input {name!r}; there are: {_list(template.inputs)}"
            )
        case ["steps", name, "output", *_] if name in available:
            return
        case ["steps", name, "output", *_]:
            raise InvalidRequest(
                f"{location}: ${{{path}}}: {name!r} is not a dependency; dependencies: {_list(available)}."
                " Add it to 'needs'"
            )
        case ["item"] if has_item:
            return
        case ["item"]:
            raise InvalidRequest(f"{location}: ${{item}} is only available in a node with 'for_each'")
        case ["run", "id"]:
            return
    forms = "${inputs.NAME}, ${steps.NODE.output}, ${steps.NODE.output.FIELD}, ${item}, ${run.id}"
    raise InvalidRequest(f"{location}: ${{{path}}} is not a reference; the forms are: {forms}")


def _list(names: Any) -> str:
    return ", ".join(sorted(names)) or "none"
