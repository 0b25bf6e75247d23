"""Recorded runs of the harness, and the source of their templates."""

from __future__ import annotations

import psycopg
from psycopg.rows import dict_row

from drw.api.workflow.v1.orchestration_pb2 import Run
from drw.workflow.orchestration.replay.recorded import RecordedRun
from workflow.harness import WorkflowHarness


def source(name: str, nodes: str, output: str) -> str:
    """Return a template as YAML."""
    return f"name: {name}\ndescription: A journal of tests.\nnodes:\n{nodes}\noutput: {output}\n"


async def recorded(harness: WorkflowHarness, run: Run) -> RecordedRun:
    """Return a run as its journal has it."""
    connection = await psycopg.AsyncConnection.connect(harness.profile.postgres, row_factory=dict_row)
    async with connection:
        await connection.execute("set search_path to orchestration")
        row = await (await connection.execute("select * from run where id = %s", (run.id,))).fetchone()
        steps = await connection.execute("select * from step where run = %s order by position", (run.id,))
        assert row is not None
        return RecordedRun.of(row, await steps.fetchall())
