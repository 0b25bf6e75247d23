"""Kill switch: it refuses new runs, and pauses active runs until the kill is lifted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from drw.api.gateway.v1.request_router_pb2 import Kill
from drw.api.workflow.v1.orchestration_pb2 import CANCELLED, FAILED, RETRYING, RUNNING, SUCCEEDED
from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.settings import Profile
from drw.killswitch.watch import Killed
from support.gateway.kills import kill
from support.json_types import Json
from workflow.doubles import until
from workflow.harness import WorkflowHarness, step_is, workflow_harness


@pytest.fixture
async def harness(profile: Profile, folder: Path, caller: Principal) -> AsyncIterator[WorkflowHarness]:
    async with workflow_harness(profile, folder, caller) as harness:
        yield harness


async def wait_until_starts_are_refused(harness: WorkflowHarness, **more: Json) -> Killed:
    """Wait until new runs are refused, and return the error."""
    errors: list[Killed] = []

    async def is_refused() -> bool:
        try:
            await harness.cancel(await harness.start(1, **more), more.get("principal"))
        except Killed as error:
            errors.append(error)
        return bool(errors)

    await until(is_refused, "the refusal of new runs")
    return errors[0]


@pytest.mark.parametrize(
    "active_kill",
    [
        kill("WORKFLOW", "digest"),
        kill("WORKFLOW", "digest", "acme"),
        kill("DESK", "research", "acme"),
        kill("KEY", "key_test", "acme"),
    ],
    ids=["workflow", "own workflow", "desk", "key"],
)
async def test_a_run_pauses_and_resumes_when_the_kill_is_lifted(harness: WorkflowHarness, active_kill: Kill) -> None:
    harness.calls.block("chat file-0")
    run = await harness.start(1)
    await until(lambda: harness.calls.active == 1, "the call of the model")
    await harness.doubles.kills.kill(active_kill)
    error = await wait_until_starts_are_refused(harness)
    assert error.metadata["code"] == "killed" and active_kill.name in error.message
    await until(lambda: harness.calls.active == 0, "the end of the call")
    await until(lambda: step_is(harness, run, "summarise/0", RETRYING), "the pause")
    step = await harness.step(run, "summarise/0")
    assert step.error.startswith("paused: ") and (await harness.get(run)).state == RUNNING
    calls_before = harness.calls.names.count("chat file-0")
    harness.calls.gates.pop("chat file-0").set()
    await harness.doubles.kills.kill()
    ended_run = await harness.wait_until_ended(run)
    assert ended_run.state == SUCCEEDED, ended_run.error
    assert harness.calls.names.count("chat file-0") == calls_before + 1
    assert harness.calls.names.count("index file-0") == 1  # finished steps do not run again
    assert [r["outcome"] for r in harness.audit("run.end") if r["resource"] == run.id] == ["ok"]


async def test_a_paused_run_can_be_cancelled(harness: WorkflowHarness) -> None:
    harness.calls.block("index file-0")
    run = await harness.start(1)
    await until(lambda: harness.calls.active == 1, "the call")
    await harness.doubles.kills.kill(kill("WORKFLOW", "digest"))
    await wait_until_starts_are_refused(harness)
    await harness.cancel(run)
    assert (await harness.wait_until_ended(run)).state == CANCELLED


async def test_kills_do_not_affect_runs_outside_their_target(harness: WorkflowHarness) -> None:
    others = [kill("WORKFLOW", "another"), kill("WORKFLOW", "digest", "other"), kill("DESK", "trading", "acme")]
    await harness.doubles.kills.kill(*others)
    other = replace(harness.caller, desk="trading")
    await wait_until_starts_are_refused(harness, principal=other)
    assert (await harness.wait_until_ended(await harness.start(1))).state == SUCCEEDED


async def test_a_run_fails_with_a_clear_error_when_its_model_is_killed(harness: WorkflowHarness) -> None:
    harness.calls.failures["chat file-0"] = [Killed("the model 'm' is stopped by a kill switch", killed="model")]
    ended_run = await harness.wait_until_ended(await harness.start(1))
    assert ended_run.state == FAILED and "the model 'm' is stopped by a kill switch" in ended_run.error
