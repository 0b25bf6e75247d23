"""Pause and resume: no step begins while a run is paused, and nothing else is lost or repeated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from drw.api.workflow.v1.orchestration_pb2 import (
    CANCELLED,
    PAUSED,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    ListRunsRequest,
    Run,
    RunState,
)
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.kernel.errors import Conflict, NotFound
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from workflow.control.controls import control_harness, controls, execute
from workflow.doubles import until
from workflow.harness import WorkflowHarness, step_is

NESTED = """
name: nested
description: Runs a child.
inputs:
  files: {type: FILES, required: true}
nodes:
  - {id: child, uses: workflow, with: {template: digest, inputs: {files: "${inputs.files}"}}}
output: ${steps.child.output.name}
"""


@pytest.fixture
async def harness(profile: Profile, folder: Path, caller: Principal) -> AsyncIterator[WorkflowHarness]:
    async with control_harness(profile, folder, caller) as harness:
        yield harness


async def start_blocked(harness: WorkflowHarness, call: str = "index file-0") -> tuple[Run, asyncio.Event]:
    """Start a run of the template `digest`; return it when the call is in progress."""
    release = harness.calls.block(call)
    run = await harness.start(1)
    await until(lambda: call in harness.calls.names, call)
    return run, release


async def states(harness: WorkflowHarness, state: RunState) -> list[str]:
    with acting_for(harness.caller):
        response = await harness.host.client(OrchestrationClient).list_runs(ListRunsRequest(state=state))
    return [run.id for run in response.runs]


async def run_to_the_end(harness: WorkflowHarness) -> Run:
    """Let another run of the executor start and end: it has handled everything that was notified before."""
    run = await harness.wait_until_ended(await harness.start(["file-7"]))
    assert run.state == SUCCEEDED, run.error
    return run


async def test_a_paused_run_ends_its_step_and_starts_no_other(harness: WorkflowHarness) -> None:
    run, release = await start_blocked(harness)
    paused = await controls(harness).pause(run, "the model is wrong")
    assert (paused.state, paused.paused_by) == (PAUSED, "key_test") and paused.paused_at.seconds
    release.set()
    await until(lambda: step_is(harness, run, "ingest/0", SUCCEEDED), "the end of the step")
    await run_to_the_end(harness)
    assert await step_is(harness, run, "summarise/0", QUEUED) and "chat file-0" not in harness.calls.names
    assert await states(harness, PAUSED) == [run.id] and run.id not in await states(harness, RUNNING)
    resumed = await controls(harness).resume(run)
    assert (resumed.state, resumed.paused_by) == (RUNNING, "")
    ended = await harness.wait_until_ended(run)
    assert ended.state == SUCCEEDED and {step.attempts for step in ended.steps} == {1}
    assert [r["resource"] for r in harness.audit("run.pause")] == [run.id]
    assert [r["actor"] for r in harness.audit("run.resume")] == ["key_test"]


async def test_pause_and_resume_twice_are_one_each(harness: WorkflowHarness) -> None:
    run, release = await start_blocked(harness)
    await asyncio.gather(*(controls(harness).pause(run) for _ in range(4)))
    await asyncio.gather(*(controls(harness).resume(run) for _ in range(4)))
    assert len(harness.audit("run.pause")) == len(harness.audit("run.resume")) == 1
    release.set()
    ended = await harness.wait_until_ended(run)
    assert ended.state == SUCCEEDED
    assert (await controls(harness).pause(run)).state == SUCCEEDED  # no effect on an ended run
    assert (await controls(harness).resume(run)).state == SUCCEEDED
    assert len(harness.audit("run.pause")) == 1


async def test_a_run_does_not_end_while_it_is_paused(harness: WorkflowHarness) -> None:
    harness.calls.block("chat file-0")
    run = await harness.start(1)
    put = f"put digest-{run.id}.md"
    release = harness.calls.block(put)
    harness.calls.gates["chat file-0"].set()
    await until(lambda: put in harness.calls.names, "the last step")
    await controls(harness).pause(run)
    release.set()
    await until(lambda: step_is(harness, run, "digest", SUCCEEDED), "the end of the last step")
    await run_to_the_end(harness)
    assert (await harness.get(run)).state == PAUSED
    await controls(harness).resume(run)
    assert (await harness.wait_until_ended(run)).state == SUCCEEDED
    assert harness.calls.names.count(put) == 1


async def test_a_paused_run_can_be_cancelled(harness: WorkflowHarness) -> None:
    run, release = await start_blocked(harness)
    await controls(harness).pause(run)
    assert (await harness.cancel(run)).state == CANCELLED
    release.set()
    with pytest.raises(Conflict, match="is paused; it must be"):
        paused, _ = await start_blocked(harness, "index file-0")
        await controls(harness).pause(paused)
        await controls(harness).fork(paused)


async def test_a_pause_holds_the_children_of_the_run(harness: WorkflowHarness) -> None:
    await harness.put(NESTED)
    release = harness.calls.block("index file-0")
    run = await harness.start(1, template="nested")
    await until(lambda: "index file-0" in harness.calls.names, "the child")
    await controls(harness).pause(run)
    assert len(await states(harness, PAUSED)) == 2
    release.set()
    await run_to_the_end(harness)
    assert "chat file-0" not in harness.calls.names
    await controls(harness).resume(run)
    assert (await harness.wait_until_ended(run)).state == SUCCEEDED


async def test_a_queued_run_that_is_paused_starts_when_it_is_resumed(
    profile: Profile, folder: Path, caller: Principal
) -> None:
    async with control_harness(profile, folder, caller, max_active_runs_per_desk=1) as harness:
        first, release = await start_blocked(harness)
        second = await harness.start(["file-1"])
        assert (await controls(harness).pause(second)).state == PAUSED
        release.set()
        await harness.wait_until_ended(first)
        await run_to_the_end(harness)
        assert "index file-1" not in harness.calls.names
        assert (await controls(harness).resume(second)).state == QUEUED
        assert (await harness.wait_until_ended(second)).state == SUCCEEDED


async def test_no_step_begins_after_a_pause_was_acknowledged(harness: WorkflowHarness) -> None:
    """Pauses that race with the ends of steps: of each step that began later, nothing is in the journal."""
    for _ in range(10):
        run, release = await start_blocked(harness)
        release.set()
        await controls(harness).pause(run)
        began = "select id, attempts from step where run = %s order by id"
        before = execute(harness.profile, began, [run.id])
        await run_to_the_end(harness)
        assert execute(harness.profile, began, [run.id]) == before
        await controls(harness).resume(run)
        ended = await harness.wait_until_ended(run)
        assert ended.state == SUCCEEDED and {step.attempts for step in ended.steps} == {1}
        harness.calls.gates.clear()
        harness.calls.names.clear()


async def test_strangers_can_neither_pause_nor_resume(harness: WorkflowHarness) -> None:
    walled = replace(harness.caller, walls=frozenset({"rates"}))
    harness.calls.block("index file-0")
    run = await harness.start(1, principal=walled)
    for stranger in (
        replace(walled, org="other"),
        replace(walled, desk="other"),
        replace(walled, walls=frozenset()),
    ):
        for call in (controls(harness, stranger).pause, controls(harness, stranger).resume):
            with pytest.raises(NotFound, match="there is no run"):
                await call(run)
    assert (await controls(harness, walled).pause(run)).state == PAUSED
    assert harness.audit("run.resume") == []
