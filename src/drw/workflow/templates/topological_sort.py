"""Topological sort of the nodes of a template."""

from __future__ import annotations

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter

from drw.kernel.errors import InvalidRequest
from drw.workflow.templates.schema import NodeSource


def sort_nodes(nodes: Sequence[NodeSource]) -> list[NodeSource]:
    """Return the nodes in topological order, stable with respect to the file.

    Raises:
        InvalidRequest: duplicate id, unknown dependency, or a cycle.
    """
    by_id = {node.id: node for node in nodes}
    if len(by_id) != len(nodes):
        duplicate = next(node.id for i, node in enumerate(nodes) if node.id in {n.id for n in nodes[:i]})
        raise InvalidRequest(f"node {duplicate!r} is defined more than once")
    names = ", ".join(by_id)
    for node in nodes:
        for name in node.needs:
            if name not in by_id:
                raise InvalidRequest(f"node {node.id!r} needs {name!r}, which is not a node; there are: {names}")
    sorter = TopologicalSorter({node.id: node.needs for node in nodes})
    try:
        sorter.prepare()
    except CycleError as error:
        raise InvalidRequest(f"these nodes form a cycle: {' -> '.join(error.args[1])}") from None
    ordered: list[NodeSource] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=lambda name: nodes.index(by_id[name]))
        ordered += [by_id[name] for name in ready]
        sorter.done(*ready)
    return ordered


def ancestors(nodes: Sequence[NodeSource]) -> dict[str, frozenset[str]]:
    """Return the ancestors of each sorted node: the nodes that have ended before it starts."""
    result: dict[str, frozenset[str]] = {}
    for node in nodes:
        result[node.id] = frozenset(node.needs).union(*(result[name] for name in node.needs))
    return result
