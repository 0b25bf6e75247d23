"""Runs of templates, and the places where text of a run could be."""

from __future__ import annotations

import psycopg
from psycopg import sql

from drw.api.workflow.v1.orchestration_pb2 import SUCCEEDED, Run
from drw.kernel.rpc.json_messages import json_value
from support.json_types import Json
from workflow.harness import WorkflowHarness


def template(nodes: str, output: str = "null", name: str = "t") -> str:
    """Return the source of a template with the input `value`."""
    return (
        f"name: {name}\ndescription: A test.\ninputs:\n  value: {{type: STRING, default: v}}\n"
        f"  values: {{type: LIST, default: []}}\nnodes:\n{nodes.strip(chr(10))}\noutput: {output}\n"
    )


async def finished(harness: WorkflowHarness, source: str, **inputs: Json) -> Run:
    """Run a template to its end."""
    stored = await harness.put(source)
    return await harness.wait_until_ended(await harness.start(0, template=stored.name, **inputs))


async def output(harness: WorkflowHarness, source: str, **inputs: Json) -> Json:
    """Return the output of a run that succeeds."""
    run = await finished(harness, source, **inputs)
    assert run.state == SUCCEEDED, run.error
    return json_value(run.output)


def stored_text(dsn: str) -> str:
    """Return all rows of all tables of the database, as text; binary columns are decoded."""
    texts = []
    with psycopg.connect(dsn) as connection:
        tables = connection.execute(
            "select table_schema, table_name from information_schema.tables"
            " where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema')"
        ).fetchall()
        for schema, table in tables:
            cursor = connection.execute(sql.SQL("select * from {}").format(sql.Identifier(schema, table)))
            for row in cursor:
                texts += [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in row]
    return "\n".join(texts)
