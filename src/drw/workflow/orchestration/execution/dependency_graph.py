"""The dependency graph of a run: its steps and their dependencies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from drw.api.workflow.v1.templates_pb2 import Node, Template


@dataclass(frozen=True, slots=True)
class Step:
    """One node, or one node for one list item."""

    id: str
    """The node id, followed by "/" and the index for a list item."""
    node: Node
    item: str | None
    after: tuple[str, ...]
    """Ids of the steps that must succeed first."""


def steps(template: Template, inputs: dict[str, Any]) -> list[Step]:
    """Return the steps of a run in topological order. The result is deterministic."""
    nodes = {node.id: node for node in template.nodes}
    return [step for node in template.nodes for step in _of(node, nodes, inputs)]


def ids(node: Node, inputs: dict[str, Any]) -> list[str]:
    """Return the ids of a node's steps."""
    return [f"{node.id}/{i}" for i in range(len(items(node, inputs)))] if node.for_each else [node.id]


def items(node: Node, inputs: dict[str, Any]) -> list[str]:
    """Return the list that a node iterates over."""
    name = node.for_each.removeprefix("${inputs.").removesuffix("}")
    values: list[str] = inputs[name]
    return values


def _of(node: Node, nodes: dict[str, Node], inputs: dict[str, Any]) -> Iterator[Step]:
    if not node.for_each:
        yield Step(node.id, node, None, _after(node, None, nodes, inputs))
        return
    for index, item in enumerate(items(node, inputs)):
        yield Step(f"{node.id}/{index}", node, item, _after(node, index, nodes, inputs))


def _after(node: Node, index: int | None, nodes: dict[str, Node], inputs: dict[str, Any]) -> tuple[str, ...]:
    dependencies: list[str] = []
    for need in node.needs:
        other = nodes[need]
        if index is not None and other.for_each == node.for_each:
            dependencies.append(f"{need}/{index}")
        else:
            dependencies += ids(other, inputs)
    return tuple(dependencies)
