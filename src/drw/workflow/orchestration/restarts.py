"""Restarts of failed runs: the inputs of the new run, and the steps whose outputs it keeps."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from drw.api.workflow.v1.templates_pb2 import Node, Template
from drw.kernel.errors import Conflict, InvalidRequest
from drw.kernel.storage.audit import digest
from drw.workflow.orchestration.compensation import steps as undo
from drw.workflow.orchestration.execution import dependency_graph
from drw.workflow.orchestration.runs import RunRequest


@dataclass(frozen=True, slots=True)
class RestartRequest(RunRequest):
    """A request to restart a failed run. `inputs` has only the inputs that it replaces."""

    restart_of: str = ""
    template_version: str = ""
    from_step: str = ""

    @property
    def fingerprint(self) -> str:
        """Implement the base class."""
        fields = [self.restart_of, self.template_version, self.from_step, self.inputs]
        return hashlib.sha256(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)).hexdigest()

    @property
    def details(self) -> dict[str, Any]:
        """Implement the base class: edited inputs are recorded by name and hash."""
        edited = {name: digest(orjson.dumps(value)) for name, value in sorted(self.inputs.items())}
        return {"restart_of": self.restart_of, "from_step": self.from_step, "edited_inputs": edited}


def merged_inputs(template: Template, old_inputs: dict[str, Any], edited: dict[str, Any]) -> dict[str, Any]:
    """Return the old inputs that the template still declares, with the edited ones in their place."""
    declared = {declared.name for declared in template.inputs}
    return {name: value for name, value in old_inputs.items() if name in declared} | edited


def undone_nodes(steps: Iterable[dict[str, Any]]) -> frozenset[str]:
    """Return the nodes of the steps that a run has undone.

    Raises:
        Conflict: a compensation failed, so that a new run would repeat effects that are still there.
    """
    undone = set()
    for step in steps:
        if step["id"].endswith(undo.SUFFIX):
            name = step["id"].removesuffix(undo.SUFFIX)
            if step["state"] != "SUCCEEDED":
                raise Conflict(f"the step {name!r} is not undone: undo it yourself, and start a new run")
            undone.add(name.rpartition(".")[2].partition("/")[0])
    return frozenset(undone)


def kept_steps(
    template: Template,
    inputs: dict[str, Any],
    old_template: Template,
    old_inputs: dict[str, Any],
    from_step: str,
    undone: frozenset[str] = frozenset(),
) -> list[str]:
    """Return the ids of the steps that do not run again: those of nodes that do not depend on the node `from_step`.

    Raises:
        InvalidRequest: there is no such node, a kept node has another activity or list than in the old run, or an
            approval would be kept for something else than what was approved, or a kept node was undone.
    """
    if not from_step:
        return []
    nodes = {node.id: node for node in template.nodes}
    if from_step not in nodes:
        names = ", ".join(nodes)
        raise InvalidRequest(
            f"{from_step!r} is not a node of the template {template.name!r}; there are: {names}", param="from_step"
        )
    old_nodes = {node.id: node for node in old_template.nodes}
    kept = [nodes[name] for name in nodes if name not in _descendants(template, from_step)]
    same_run = template.version == old_template.version and inputs == old_inputs
    for node in kept:
        if any(inner.id in undone for inner in dependency_graph.all_nodes([node])):
            raise InvalidRequest(f"{node.id!r} was undone: start from it or earlier", param="from_step")
        if not same_run:
            _check_approvals(node)
        _check_unchanged(node, old_nodes.get(node.id), inputs, old_inputs)
    return [step for node in kept for step in dependency_graph.step_ids(node, inputs)]


def _descendants(template: Template, name: str) -> set[str]:
    descendants = {name}
    for node in template.nodes:  # in topological order
        if descendants & set(node.needs):
            descendants.add(node.id)
    return descendants


def _check_approvals(node: Node) -> None:
    if any(inner.uses == "approval" for inner in dependency_graph.all_nodes([node])):
        raise InvalidRequest(
            f"{node.id!r} was approved for other inputs or another version of the template: start from it or earlier",
            param="from_step",
        )


def _check_unchanged(node: Node, old_node: Node | None, inputs: dict[str, Any], old_inputs: dict[str, Any]) -> None:
    if old_node is None:
        return
    same_items = _items(node, inputs) == _items(old_node, old_inputs)
    if node.uses == old_node.uses and same_items:
        return
    changed = "list" if node.uses == old_node.uses else "activity"
    raise InvalidRequest(
        f"the output of {node.id!r} cannot be kept, because its {changed} has changed: start from it", param="from_step"
    )


def _items(node: Node, inputs: dict[str, Any]) -> list[str] | None:
    return dependency_graph.list_items(node, inputs) if node.for_each else None
