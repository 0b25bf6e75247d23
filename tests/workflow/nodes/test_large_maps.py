"""A map over thousands of items: it ends with every result in order, and another desk does not wait for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import psycopg

from drw.api.workflow.v1.orchestration_pb2 import SUCCEEDED, Run
from drw.kernel.rpc.context import Principal
from drw.kernel.rpc.json_messages import json_value
from drw.kernel.runtime.settings import Profile
from support.json_types import JsonObject
from workflow.doubles import until
from workflow.harness import FAST_SETTINGS, WorkflowHarness, workflow_harness

ITEMS = 2_000
LARGE = """
name: large
description: Doubles many numbers.
inputs:
  values: {type: LIST, required: true}
nodes:
  - id: all
    uses: map
    with: {items: "${inputs.values}", concurrency: 16}
    nodes: [{id: one, uses: python, with: {function: double, arguments: {value: "${item}"}}}]
    output: ${steps.one.output.value}
output: ${steps.all.output}
"""
SMALL = """
name: small
description: Doubles one number.
nodes: [{id: one, uses: python, with: {function: double, arguments: {value: 4}}}]
output: ${steps.one.output.value}
"""


async def test_a_map_over_thousands_of_items_holds_up_no_other_desk(
    profile: Profile, folder: Path, caller: Principal
) -> None:
    functions = {"functions": {"double": "workflow.functions:double"}}
    services: JsonObject = FAST_SETTINGS | {"orchestration": FAST_SETTINGS["orchestration"] | functions}
    async with workflow_harness(profile, folder, caller, services=services) as harness:
        await harness.put(LARGE)
        large = await harness.start(0, template="large", values=list(range(ITEMS)))
        await until(lambda: ended_steps(profile, large) > 10, "the first items")
        other = WorkflowHarness(harness.host, harness.doubles, harness.profile, replace(caller, desk="rates"))
        await other.put(SMALL)
        small = await other.wait_until_ended(await other.start(0, template="small"))
        assert (small.state, json_value(small.output)) == (SUCCEEDED, 8)
        assert ended_steps(profile, large) < ITEMS  # it goes on meanwhile
        await until(lambda: ended_steps(profile, large) > ITEMS, "the last item", 400)
        output = json_value((await harness.wait_until_ended(large)).output)
        assert output == [2 * value for value in range(ITEMS)]


def ended_steps(profile: Profile, run: Run) -> int:
    query = "select count(*) from orchestration.step where run = %s and ended_at is not null"
    with psycopg.connect(profile.postgres) as connection:
        row = connection.execute(query, (run.id,)).fetchone()
    assert row is not None
    return int(row[0])
