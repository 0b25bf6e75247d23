"""The queue of runs: priorities within a desk, turns between desks, and bounds of active runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from drw.api.workflow.v1.orchestration_pb2 import HIGH, LOW, NORMAL, SUCCEEDED, Priority, Run, StartRunRequest
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.kernel.errors import Conflict
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.rpc.json_messages import json_message
from drw.kernel.runtime.settings import Profile
from drw.workflow.orchestration.control.run_queue import PRIORITY_SECONDS
from workflow.control.controls import control_harness, controls, execute
from workflow.doubles import until
from workflow.harness import WorkflowHarness

BLOCKER = "file-100"


async def start(
    harness: WorkflowHarness, file: str, priority: Priority, desk: str = "research", request_id: str = ""
) -> Run:
    request = StartRunRequest(template="digest", priority=priority, request_id=request_id or f"{desk}/{file}")
    request.inputs.CopyFrom(json_message({"files": [file]}))
    with acting_for(replace(harness.caller, desk=desk)):
        return await harness.host.client(OrchestrationClient).start_run(request)


@asynccontextmanager
async def one_at_a_time(
    profile: Profile, folder: Path, caller: Principal, **settings: int
) -> AsyncIterator[tuple[WorkflowHarness, asyncio.Event]]:
    """Yield an executor with one active run, and the event that ends it. Further runs are queued."""
    async with control_harness(profile, folder, caller, **settings) as harness:
        release = harness.calls.block(f"index {BLOCKER}")
        await start(harness, BLOCKER, NORMAL)
        await until(lambda: f"index {BLOCKER}" in harness.calls.names, "the active run")
        yield harness, release


async def order(harness: WorkflowHarness, release: asyncio.Event, runs: int) -> list[str]:
    """Let all runs end; return the files in the order of their starts."""
    release.set()
    query = "select count(*) from run where state = 'SUCCEEDED'"
    await until(lambda: execute(harness.profile, query) == [(runs + 1,)], "the end of all runs")
    starts = [name.removeprefix("index ") for name in harness.calls.names if name.startswith("index")]
    return [file for file in starts if file != BLOCKER]


async def test_runs_of_a_desk_start_by_priority(profile: Profile, folder: Path, caller: Principal) -> None:
    async with one_at_a_time(profile, folder, caller, max_active_runs_per_desk=1) as (harness, release):
        for number, priority in enumerate((LOW, NORMAL, HIGH, NORMAL, HIGH)):
            run = await start(harness, f"file-{number}", priority)
            assert run.priority == priority
        assert await order(harness, release, 5) == ["file-2", "file-4", "file-1", "file-3", "file-0"]
        assert harness.calls.max_active == 1


async def test_waiting_raises_the_priority(profile: Profile, folder: Path, caller: Principal) -> None:
    async with one_at_a_time(profile, folder, caller, max_active_runs_per_desk=1) as (harness, release):
        old, newer, high = [await start(harness, f"file-{n}", p) for n, p in enumerate((LOW, LOW, HIGH))]
        age = "update run set created_at = created_at - %s * interval '1 second' where id = %s"
        execute(harness.profile, age, [2 * PRIORITY_SECONDS + 1, old.id])
        execute(harness.profile, age, [2 * PRIORITY_SECONDS - 60, newer.id])
        assert await order(harness, release, 3) == ["file-0", "file-2", "file-1"]


async def test_desks_take_turns_whatever_their_priorities_are(
    profile: Profile, folder: Path, caller: Principal
) -> None:
    async with one_at_a_time(profile, folder, caller, max_active_runs=1) as (harness, release):
        for number in range(4):
            await start(harness, f"file-{number}", HIGH)
        for number in (10, 11):
            await start(harness, f"file-{number}", LOW, "trading")
        started = await order(harness, release, 6)
        assert started == ["file-10", "file-0", "file-11", "file-1", "file-2", "file-3"]
        assert harness.calls.max_active == 1


async def test_a_child_starts_while_its_parent_holds_the_only_slot(
    profile: Profile, folder: Path, caller: Principal
) -> None:
    source = (
        "name: parent\ndescription: x\nnodes:\n"
        "  - {id: child, uses: workflow, with: {template: digest, inputs: {files: [file-0]}}}\noutput: 1\n"
    )
    async with control_harness(profile, folder, caller, max_active_runs=1, max_active_runs_per_desk=1) as harness:
        await harness.put(source)
        run = await harness.wait_until_ended(await harness.start(0, template="parent"))
        assert run.state == SUCCEEDED, run.error


async def test_a_paused_run_gives_its_slot_to_another(profile: Profile, folder: Path, caller: Principal) -> None:
    async with one_at_a_time(profile, folder, caller, max_active_runs_per_desk=1) as (harness, release):
        second = await start(harness, "file-1", LOW)
        paused = Run(id=str(execute(profile, "select id from run where state = 'RUNNING'")[0][0]))
        await controls(harness).pause(paused)
        assert (await harness.wait_until_ended(second)).state == SUCCEEDED
        release.set()
        await controls(harness).resume(paused)
        assert (await harness.wait_until_ended(paused)).state == SUCCEEDED


async def test_a_fork_has_the_priority_of_its_run_and_a_request_id_one_priority(
    profile: Profile, folder: Path, caller: Principal
) -> None:
    async with control_harness(profile, folder, caller) as harness:
        run = await harness.wait_until_ended(await start(harness, "file-0", HIGH, request_id="once"))
        assert (await start(harness, "file-0", HIGH, request_id="once")).id == run.id
        with pytest.raises(Conflict, match="was used for another run"):
            await start(harness, "file-0", LOW, request_id="once")
        assert (await controls(harness).fork(run)).priority == HIGH
