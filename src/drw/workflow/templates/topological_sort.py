"""Topological sort of the nodes of a template."""

from __future__ import annotations

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter

from drw.kernel.errors import InvalidRequest
from drw.workflow.templates.schema import NodeSource


def sorted_nodes(nodes: Sequence[NodeSource]) -> list[NodeSource]:
    """Return the nodes in topological order, stable with respect to the file.

    Raises:
        InvalidRequest: duplicate id, unknown dependency, or a cycle.
    """
    by_id = {node.id: node for node in nodes}
    if len(by_id) != len(nodes):
        twice = next(node.id for i, node in enumerate(nodes) if node.id in {n.id for n in nodes[:i]})
        raise InvalidRequest(f"node {twice!r} stands in the file twice")
    for node in nodes:
        for need in node.needs:
            if need not in by_id:
                raise InvalidRequest(f"node {node.id!r} needs {need!r}, which is not a node; there are: {_list(by_id)}")
    sorter = TopologicalSorter({node.id: node.needs for node in nodes})
    try:
        sorter.prepare()
    except CycleError as error:
        raise InvalidRequest(f"these nodes need each other in a circle: {' -> '.join(error.args[1])}") from None
    placed: list[NodeSource] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=lambda name: nodes.index(by_id[name]))
        placed += [by_id[name] for name in ready]
        sorter.done(*ready)
    return placed


def ended_before(nodes: Sequence[NodeSource]) -> dict[str, frozenset[str]]:
    """Return for each sorted node the nodes that have ended before it starts."""
    before: dict[str, frozenset[str]] = {}
    for node in nodes:
        before[node.id] = frozenset(node.needs).union(*(before[need] for need in node.needs))
    return before


def _list(names: dict[str, NodeSource]) -> str:
    return ", ".join(names)
