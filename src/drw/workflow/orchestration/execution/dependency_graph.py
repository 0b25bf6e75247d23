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
    dependencies: tuple[str, ...]
    """Ids of the steps that must succeed first."""


def build_steps(template: Template, inputs: dict[str, Any]) -> list[Step]:
    """Return the steps of a run in topological order. The result is deterministic."""
    nodes = {node.id: node for node in template.nodes}
    return [step for node in template.nodes for step in _node_steps(node, nodes, inputs)]


def step_ids(node: Node, inputs: dict[str, Any]) -> list[str]:
    """Return the ids of a node's steps."""
    return [f"{node.id}/{i}" for i in range(len(list_items(node, inputs)))] if node.for_each else [node.id]


def list_items(node: Node, inputs: dict[str, Any]) -> list[str]:
    """Return the list that a node iterates over."""
    name = node.for_each.removeprefix("${inputs.").removesuffix("}")
    values: list[str] = inputs[name]
    return values


def _node_steps(node: Node, nodes: dict[str, Node], inputs: dict[str, Any]) -> Iterator[Step]:
    if not node.for_each:
        yield Step(node.id, node, None, _dependencies(node, None, nodes, inputs))
        return
    for index, item in enumerate(list_items(node, inputs)):
        yield Step(f"{node.id}/{index}", node, item, _dependencies(node, index, nodes, inputs))


def _dependencies(node: Node, index: int | None, nodes: dict[str, Node], inputs: dict[str, Any]) -> tuple[str, ...]:
    dependencies: list[str] = []
    for name in node.needs:
        dependency = nodes[name]
        if index is not None and dependency.for_each == node.for_each:
            dependencies.append(f"{name}/{index}")
        else:
            dependencies += step_ids(dependency, inputs)
    return tuple(dependencies)
