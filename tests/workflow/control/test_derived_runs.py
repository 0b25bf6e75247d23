"""Forks and retries: new runs from ended ones, with the outputs of some steps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from drw.api.workflow.v1.orchestration_pb2 import FAILED, SUCCEEDED
from drw.kernel.errors import Conflict, Forbidden, InvalidRequest, NotFound
from drw.kernel.rpc.context import Principal
from drw.kernel.rpc.json_messages import json_value
from drw.kernel.runtime.settings import Profile
from workflow.control.controls import control_harness, controls
from workflow.doubles import until
from workflow.harness import WorkflowHarness


@pytest.fixture
async def harness(profile: Profile, folder: Path, caller: Principal) -> AsyncIterator[WorkflowHarness]:
    async with control_harness(profile, folder, caller) as harness:
        yield harness


async def test_a_fork_with_changed_inputs_runs_all_steps_again(harness: WorkflowHarness) -> None:
    run = await harness.wait_until_ended(await harness.start(1))
    fork = await harness.wait_until_ended(await controls(harness).fork(run, title="Another"))
    assert fork.state == SUCCEEDED and fork.id != run.id
    assert (fork.forked_from, fork.from_step, fork.restart_of) == (run.id, "", "")
    assert json_value(fork.inputs) == json_value(run.inputs) | {"title": "Another"}
    assert "Another" in json_value(fork.output)["text"]
    assert harness.calls.names.count("index file-0") == 2
    again = await harness.get(run)
    assert (again.state, list(again.forks), json_value(again.output)) == (SUCCEEDED, [fork.id], json_value(run.output))
    record = next(r for r in harness.audit("run.start") if r["resource"] == fork.id)
    assert record["details"]["fork_of"] == run.id and list(record["details"]["edited_inputs"]) == ["title"]


async def test_a_fork_from_a_node_keeps_the_outputs_before_it(harness: WorkflowHarness) -> None:
    run = await harness.wait_until_ended(await harness.start(2))
    calls = list(harness.calls.names)
    fork = await harness.wait_until_ended(await controls(harness).fork(run, "digest", title="Another"))
    assert fork.state == SUCCEEDED and fork.from_step == "digest"
    assert harness.calls.names[len(calls) :] == [f"put digest-{fork.id}.md"]
    ingests = [[step for step in r.steps if step.id.startswith("ingest")] for r in (run, fork)]
    assert ingests[0] == ingests[1]
    with pytest.raises(InvalidRequest, match="'other' is not a node of the template 'digest'"):
        await controls(harness).fork(run, "other")
    with pytest.raises(InvalidRequest, match="its list has changed: start from it"):
        await controls(harness).fork(run, "digest", files=["file-9"])


async def test_a_fork_with_the_same_request_id_is_the_same_run(harness: WorkflowHarness) -> None:
    run = await harness.wait_until_ended(await harness.start(1))
    forks = await asyncio.gather(*(controls(harness).fork(run, request_id="once") for _ in range(4)))
    assert len({fork.id for fork in forks}) == 1
    with pytest.raises(Conflict, match="was used for another run"):
        await controls(harness).fork(run, request_id="once", title="Another")
    with pytest.raises(Conflict, match="was used for another run"):
        await controls(harness).retry(run, request_id="once")
    await harness.wait_until_ended(forks[0])


async def test_a_retry_continues_from_the_step_that_failed(harness: WorkflowHarness) -> None:
    harness.calls.failures["chat file-1"] = [InvalidRequest("bad")]
    failed = await harness.wait_until_ended(await harness.start(2))
    assert failed.state == FAILED
    await until(lambda: harness.calls.active == 0, "the end of the other steps")
    kept = [step.id for step in (await harness.get(failed)).steps if step.state == SUCCEEDED]
    before = len(harness.calls.names)
    retry = await harness.wait_until_ended(await controls(harness).retry(failed))
    assert retry.state == SUCCEEDED and retry.forked_from == failed.id
    calls = harness.calls.names[before:]
    assert "index file-0" in harness.calls.names and "chat file-1" in calls
    repeated = {"index file-0": "ingest/0", "index file-1": "ingest/1", "chat file-0": "summarise/0"}
    assert not [step for call, step in repeated.items() if call in calls and step in kept]
    with pytest.raises(Conflict, match="is succeeded; it must be failed or cancelled"):
        await controls(harness).retry(retry)


async def test_a_retry_of_a_cancelled_run_starts_from_a_node(harness: WorkflowHarness) -> None:
    harness.calls.block("chat file-0")
    run = await harness.start(1)
    await until(lambda: "chat file-0" in harness.calls.names, "the model call")
    with pytest.raises(Conflict, match="is running; it must be"):
        await controls(harness).retry(run)
    await harness.cancel(run)
    harness.calls.gates.pop("chat file-0").set()
    retry = await harness.wait_until_ended(await controls(harness).retry(run, "ingest"))
    assert retry.state == SUCCEEDED and harness.calls.names.count("index file-0") == 2


async def test_strangers_can_neither_fork_nor_retry(harness: WorkflowHarness) -> None:
    run = await harness.wait_until_ended(await harness.start(1))
    for stranger in (replace(harness.caller, org="other"), replace(harness.caller, desk="other")):
        for call in (controls(harness, stranger).fork, controls(harness, stranger).retry):
            with pytest.raises(NotFound, match="there is no run"):
                await call(run)
    poor = replace(harness.caller, scopes=frozenset({"workflows:run", "workflows:read"}))
    with pytest.raises(Forbidden, match="needs the scopes"):
        await controls(harness, poor).fork(run)


async def test_the_forks_of_a_caller_with_more_walls_are_hidden(harness: WorkflowHarness) -> None:
    run = await harness.wait_until_ended(await harness.start(1))
    walled = replace(harness.caller, walls=frozenset({"rates"}))
    fork = await controls(harness, walled).fork(run)
    assert list(fork.walls) == ["rates"]
    assert list((await harness.get(run)).forks) == []


UNDO = """
name: undo
description: Undoes a step.
inputs: {files: {type: FILES}}
nodes:
  - {id: keep, uses: ingest, with: {file: file-1, collection: a}}
  - id: order
    uses: ingest
    needs: [keep]
    with: {file: file-2, collection: a}
    compensate: {uses: ingest, with: {file: file-3, collection: a}}
  - {id: last, uses: python, needs: [order], with: {function: fail}}
output: 1
"""


async def test_a_retry_runs_undone_steps_again(harness: WorkflowHarness) -> None:
    await harness.put(UNDO)
    failed = await harness.wait_until_ended(await harness.start(0, template="undo"))
    assert failed.state == FAILED and "index file-3" in harness.calls.names
    await harness.wait_until_ended(await controls(harness).retry(failed))
    assert harness.calls.names.count("index file-1") == 1 and harness.calls.names.count("index file-2") == 2
