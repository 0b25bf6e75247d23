"""The graph of the nodes of one block: duplicate ids, unknown dependencies, cycles, topological order."""

from __future__ import annotations

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter

from drw.workflow.templates.problems import Problem, nearest
from drw.workflow.templates.schema import NodeSource
from drw.workflow.templates.yaml_source import Path, Positions


def check_graph(nodes: Sequence[NodeSource], path: Path, positions: Positions) -> list[Problem]:
    """Return the problems of the `needs` of the nodes at a path."""
    problems = []
    by_id = {node.id: node for node in nodes}
    for index, node in enumerate(nodes):
        for position, name in enumerate(node.needs):
            if name not in by_id:
                message = f"node {node.id!r} needs {name!r}, which is not a node of the same list; "
                where: Path = (*path, index, "needs", position)
                problems.append(positions.problem(where, message + nearest(name, by_id.keys() - {node.id})))
    if cycle := _cycle(nodes):
        index = next(i for i, node in enumerate(nodes) if node.id == cycle[0])
        message = f"these nodes form a cycle: {' -> '.join(cycle)}"
        problems.append(positions.problem((*path, index, "needs"), message, at_key=True))
    return problems


def sort_nodes(nodes: Sequence[NodeSource]) -> list[NodeSource]:
    """Return the nodes in topological order, stable with respect to the file. The graph has no problems."""
    by_id = {node.id: node for node in nodes}
    sorter = TopologicalSorter({node.id: node.needs for node in nodes})
    sorter.prepare()
    ordered: list[NodeSource] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=lambda name: nodes.index(by_id[name]))
        ordered += [by_id[name] for name in ready]
        sorter.done(*ready)
    return ordered


def ancestors(nodes: Sequence[NodeSource]) -> dict[str, frozenset[str]]:
    """Return the ancestors of each node: the nodes that have ended before it starts. Tolerates a wrong graph."""
    by_id = {node.id: node for node in nodes}
    result: dict[str, frozenset[str]] = {}
    for node in nodes:
        found: set[str] = set()
        pending = list(node.needs)
        while pending:
            if (name := pending.pop()) in by_id and name not in found:
                found.add(name)
                pending += by_id[name].needs
        result[node.id] = frozenset(found - {node.id})
    return result


def _cycle(nodes: Sequence[NodeSource]) -> list[str]:
    ids = {node.id for node in nodes}
    try:
        TopologicalSorter({node.id: [n for n in node.needs if n in ids] for node in nodes}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []
