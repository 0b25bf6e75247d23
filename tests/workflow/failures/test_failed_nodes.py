"""Failures of control nodes, approvals and child runs: classes, dead letters and restarts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from drw.api.workflow.v1.error_handling_pb2 import DeadLetter, DeadLetterFilter
from drw.api.workflow.v1.orchestration_pb2 import FAILED, PERMANENT, SUCCEEDED, RestartRunRequest, Run, Vote
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.kernel.errors import InvalidRequest, NotFound
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.rpc.json_messages import json_message
from drw.kernel.runtime.settings import Profile
from support.json_types import Json
from workflow.dead_letters import dead_letter_harness, letter_of, letters, redrive, wait_until_redriven
from workflow.doubles import until
from workflow.harness import WITH_PERSONS, WorkflowHarness

BODY = """
name: each
description: Indexes each file.
inputs:
  files: {type: FILES, required: true}
nodes:
  - id: all
    uses: map
    with: {items: "${inputs.files}"}
    nodes: [{id: put, uses: ingest, with: {file: "${item}", collection: c}}]
output: 1
"""
PARENT = """
name: parent
description: Starts another run.
inputs:
  files: {type: FILES, required: true}
nodes:
  - {id: child, uses: workflow, with: {template: each, inputs: {files: "${inputs.files}"}}}
output: 1
"""
APPROVED = """
name: approved
description: Needs an approval.
inputs:
  files: {type: FILES, required: true}
  note: {type: STRING, default: a}
nodes:
  - {id: ok, uses: approval, with: {title: "Go?", details: "${inputs.note}"}}
  - {id: put, uses: ingest, needs: [ok], with: {file: "${inputs.files[0]}", collection: c}}
output: 1
"""


@pytest.fixture
async def harness(profile: Profile, folder: Path, caller: Principal) -> AsyncIterator[WorkflowHarness]:
    starter = replace(caller, key="oidc:corp:starter")  # a person without a key, so that nobody created it
    names = [*WITH_PERSONS, "error_handling"]
    async with dead_letter_harness(profile, folder, starter, names=names) as harness:
        await harness.put(BODY)
        yield harness


async def failed(harness: WorkflowHarness, template: str) -> Run:
    harness.calls.failures["index file-0"] = [InvalidRequest("no pages")]
    run = await harness.wait_until_ended(await harness.start(["file-0"], template=template))
    assert run.state == FAILED
    return run


async def test_the_cause_of_a_failed_map_is_the_step_inside_of_it(harness: WorkflowHarness) -> None:
    letter = await letter_of(harness, await failed(harness, "each"))
    assert (letter.step, letter.failure_class, letter.reason) == ("all.0.put", PERMANENT, "InvalidRequest")
    done = await wait_until_redriven(harness, await redrive(harness, DeadLetterFilter(ids=[letter.id])))
    assert (done.started, done.failed) == (1, 0)


async def test_a_failed_child_run_is_part_of_the_dead_letter_of_its_parent(harness: WorkflowHarness) -> None:
    await harness.put(PARENT)
    letter = await letter_of(harness, await failed(harness, "parent"))
    assert (letter.step, letter.template) == ("child", "parent")
    assert await letters(harness) == [letter]
    done = await wait_until_redriven(harness, await redrive(harness, DeadLetterFilter(ids=[letter.id])))
    assert (done.started, done.failed) == (1, 0)
    assert [stored.state for stored in await letters(harness)] == [DeadLetter.REDRIVEN]


async def test_an_approval_is_not_kept_for_other_inputs(harness: WorkflowHarness) -> None:
    await harness.put(APPROVED)
    harness.calls.failures["index file-0"] = [InvalidRequest("no pages")]
    run = await harness.start(["file-0"], template="approved")

    async def approves() -> bool:
        try:
            await harness.decide(run, "ok", "oidc:corp:other", Vote.APPROVE)
        except NotFound:
            return False
        return True

    await until(approves, "the approval")
    assert (await harness.wait_until_ended(run)).state == FAILED
    with pytest.raises(InvalidRequest, match="'ok' was approved for other inputs"):
        await restart(harness, run, {"note": "b"})
    assert (await harness.wait_until_ended(await restart(harness, run, {}))).state == SUCCEEDED
    assert len(harness.audit("approval.request")) == 1


async def restart(harness: WorkflowHarness, run: Run, inputs: Json) -> Run:
    request = RestartRunRequest(run=run.id, request_id=f"again {inputs}", from_step="put", inputs=json_message(inputs))
    with acting_for(harness.caller):
        return await harness.host.client(OrchestrationClient).restart_run(request)
