"""Runs that undo their steps: which steps have compensations, and the record that a run undoes them."""

from __future__ import annotations

from typing import Any

from drw.api.workflow.v1.templates_pb2 import Node, Template
from drw.kernel.storage.database import Connection
from drw.workflow.orchestration import events
from drw.workflow.orchestration.activities import ACTIVITIES
from drw.workflow.orchestration.execution.dependency_graph import all_nodes

SUFFIX = "~undo"
"""Of the id of a step that undoes another one. No node id contains it."""

STEPS = """
select id, undo, substring(id from '([a-z0-9_]+)(?:/[0-9]+)?$') as node from step
where run = %(run)s and attempts > 0 and right(id, 5) <> '~undo'
  and (state = 'SUCCEEDED' and substring(id from '([a-z0-9_]+)(?:/[0-9]+)?$') = any(%(nodes)s)
       or (state <> 'FAILED' or failure_class = 'AMBIGUOUS')
           and substring(id from '([a-z0-9_]+)(?:/[0-9]+)?$') = any(%(activities)s))
order by coalesce(ended_at, started_at) desc, position desc
"""
"""Steps that may have taken effect, the last one first. Control nodes and waiting steps have none until they succeed:
the steps inside of them do."""


def compensated_nodes(template: Template) -> dict[str, Node]:
    """Return the nodes with compensations, by id."""
    return {node.id: node for node in all_nodes(template.nodes) if node.HasField("compensate")}


async def steps(connection: Connection, run: str, template: Template) -> list[dict[str, Any]]:
    """Return the steps of a run to undo, the last one first, with their nodes and the plans of their compensations."""
    nodes = compensated_nodes(template)
    if not nodes:
        return []
    activities = [name for name, node in nodes.items() if node.uses in ACTIVITIES]
    cursor = await connection.execute(STEPS, {"run": run, "nodes": list(nodes), "activities": activities})
    return await cursor.fetchall()


async def begin(connection: Connection, run: str, template: Template, state: str, reason: str) -> bool:
    """Record that a locked run undoes its steps, and ends in a state then; return False if there is nothing to undo."""
    if not await steps(connection, run, template):
        return False
    await events.add(connection, run, "undoing", detail=reason)
    await connection.execute(
        "update run set undo_state = %s, undo_reason = %s, interruptions = 0 where id = %s", (state, reason, run)
    )
    return True
