"""The state of a run at one moment: the progress of its nodes, their outputs so far, and what it waits for."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import orjson

from drw.api.workflow.v1.orchestration_pb2 import NodeProgress, RunQuery, WaitingFor
from drw.api.workflow.v1.templates_pb2 import Node, Template
from drw.kernel.rpc.json_messages import json_message
from drw.kernel.storage.database import Database
from drw.workflow.orchestration import messages
from drw.workflow.orchestration.execution import dependency_graph
from drw.workflow.orchestration.payloads.payload_store import MAX_INLINE_BYTES
from drw.workflow.orchestration.runs import Row

MAX_VALUE_BYTES = 256 * 1024
MAX_LISTED = 100
KINDS = {"wait": "time", "approval": "approval", "workflow": "run"}

NODES = """
select regexp_replace(id, '[./][0-9]+', '', 'g') as node, state, count(*)::int as steps, min(position) as position
from step where run = %s group by 1, 2 order by 4, 1
"""
VALUES = """
select id, output from (
    select id, output, sum(octet_length(output::text)) over (order by position, id) as total from step
    where run = %s and state = 'SUCCEEDED' and strpos(id, '.') = 0 and octet_length(output::text) <= %s
) as small where total <= %s
"""
WAITING = """
select step.id, step.decision, approval.deadline
from step left join approval on approval.run = step.run and approval.step = step.id
where step.run = %s and step.state = 'RUNNING' and decision_payload is null
and json_typeof(decision) = 'object' and decision->>'until' is not null order by position limit %s
"""
"""Open steps that wait. The deadline of an approval moves when it escalates."""
SIGNALS = "select * from run_signal where run = %s and step is null order by number limit %s"


async def query(database: Database, run: Row) -> RunQuery:
    """Return the state of a run that the caller sees."""
    template = Template.FromString(run["template"])
    progress: dict[str, dict[str, int]] = {}
    for row in await database.all(NODES, run["id"]):
        progress.setdefault(row["node"], {})[row["state"]] = row["steps"]
    rows = await database.all(VALUES, run["id"], MAX_INLINE_BYTES, MAX_VALUE_BYTES)
    values, omitted = _values(template, progress, {row["id"]: row["output"] for row in rows})
    nodes = {node.id: node for node in dependency_graph.all_nodes(template.nodes)}
    return RunQuery(
        run=run["id"],
        state=messages.run(run, []).state,
        nodes=[NodeProgress(node=node, steps=steps) for node, steps in progress.items()],
        values=json_message(values),
        omitted=omitted,
        waiting_for=[_waiting(row, nodes) for row in await database.all(WAITING, run["id"], MAX_LISTED)],
        pending_signals=[messages.signal(row) for row in await database.all(SIGNALS, run["id"], MAX_LISTED)],
    )


def _values(
    template: Template, progress: dict[str, dict[str, int]], outputs: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return the outputs of nodes that have succeeded, and the nodes whose outputs are too large."""
    values: dict[str, Any] = {}
    omitted = []
    for node in template.nodes:
        succeeded = progress.get(node.id, {}).get("SUCCEEDED", 0)
        own = {id_: value for id_, value in outputs.items() if id_.partition("/")[0] == node.id}
        if len(own) < succeeded:
            omitted.append(node.id)
        elif succeeded and node.for_each:
            values[node.id] = {id_.partition("/")[2]: value for id_, value in own.items()}
        elif succeeded:
            values[node.id] = own[node.id]
    return values, omitted


def _waiting(row: Row, nodes: dict[str, Node]) -> WaitingFor:
    node = nodes.get(re.split(r"[./]", re.sub(r"/\d+$", "", row["id"]))[-1], Node())
    name = orjson.loads(node.with_json or "{}").get("signal", "") if node.uses == "wait" else ""
    kind = "signal" if name else KINDS.get(node.uses, "time")
    end = row["deadline"] or datetime.fromisoformat(row["decision"]["until"])
    deadline = None if kind == "run" else messages.timestamp(end)
    return WaitingFor(step=row["id"], kind=kind, name=name, deadline=deadline)
