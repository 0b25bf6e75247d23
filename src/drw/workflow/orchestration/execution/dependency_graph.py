"""The dependency graph of a block: its steps and their dependencies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from drw.api.workflow.v1.templates_pb2 import Node


@dataclass(frozen=True, slots=True)
class Step:
    """One node, or one node for one list item."""

    id: str
    """The node id, followed by "/" and the index for a list item. Steps of a body have the id of its step, the index
    of the iteration or case, and a dot before."""
    node: Node
    item: Any
    index: int | None
    """The index of the item; None without a list."""
    dependencies: tuple[str, ...]
    """Ids of the steps that must succeed first."""


def build_steps(nodes: Sequence[Node], inputs: dict[str, Any], prefix: str = "") -> list[Step]:
    """Return the steps of a block in topological order. The result is deterministic."""
    by_id = {node.id: node for node in nodes}
    return [step for node in nodes for step in _node_steps(node, by_id, inputs, prefix)]


def step_ids(node: Node, inputs: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the ids of a node's steps."""
    if not node.for_each:
        return [f"{prefix}{node.id}"]
    return [f"{prefix}{node.id}/{index}" for index in range(len(list_items(node, inputs)))]


def list_items(node: Node, inputs: dict[str, Any]) -> list[Any]:
    """Return the list that a node iterates over."""
    name = node.for_each.removeprefix("${inputs.").removesuffix("}")
    values: list[Any] = inputs[name]
    return values


def all_nodes(nodes: Iterable[Node]) -> Iterator[Node]:
    """Yield the nodes, and those inside of them."""
    for node in nodes:
        yield node
        for block in node.blocks:
            yield from all_nodes(block.nodes)


def _node_steps(node: Node, nodes: dict[str, Node], inputs: dict[str, Any], prefix: str) -> Iterator[Step]:
    if not node.for_each:
        yield Step(f"{prefix}{node.id}", node, None, None, _dependencies(node, None, nodes, inputs, prefix))
        return
    for index, item in enumerate(list_items(node, inputs)):
        dependencies = _dependencies(node, index, nodes, inputs, prefix)
        yield Step(f"{prefix}{node.id}/{index}", node, item, index, dependencies)


def _dependencies(
    node: Node, index: int | None, nodes: dict[str, Node], inputs: dict[str, Any], prefix: str
) -> tuple[str, ...]:
    dependencies: list[str] = []
    for name in node.needs:
        dependency = nodes[name]
        if index is not None and dependency.for_each == node.for_each:
            dependencies.append(f"{prefix}{name}/{index}")
        else:
            dependencies += step_ids(dependency, inputs, prefix)
    return tuple(dependencies)
