"""Compensation: in reverse order, once, and for each step that may have taken effect."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from drw.api.workflow.v1.orchestration_pb2 import FAILED
from drw.kernel.errors import InvalidRequest, Unavailable
from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.settings import Profile
from drw.workflow.orchestration.execution.compensation import Compensation, Compensator
from drw.workflow.orchestration.execution.interpreter import Interpreter
from drw.workflow.orchestration.execution.run_journal import Run, RunJournal
from support.json_types import Json
from workflow.harness import WorkflowHarness, workflow_harness

errors: list[list[str]] = []


@pytest.fixture
async def harness(
    profile: Profile, folder: Path, caller: Principal, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[WorkflowHarness]:
    """The workflow services, with runs of `digest` that undo their `ingest` steps when they fail."""
    execute = Interpreter._execute
    errors.clear()

    async def with_compensation(self: Interpreter, run: Run) -> tuple[Json, str]:
        output, error = await execute(self, run)
        if error:
            compensator = Compensator(self._journal, self._step_executor)
            undo = [
                Compensation(f"ingest/{i}", "documents.index", {"file": f"undo-{i}", "collection": "c"}) for i in (0, 1)
            ]
            errors.append(await compensator.compensate(run, undo))
        return output, error

    monkeypatch.setattr(Interpreter, "_execute", with_compensation)
    async with workflow_harness(profile, folder, caller) as harness:
        yield harness


async def undone(harness: WorkflowHarness) -> list[str]:
    harness.calls.failures["chat file-1"] = [InvalidRequest("no such model")]
    run = await harness.wait_until_ended(await harness.start(2))
    assert run.state == FAILED
    return [name for name in harness.calls.names if "undo" in name]


async def test_finished_steps_are_undone_the_last_one_first(harness: WorkflowHarness) -> None:
    ended: list[str] = []
    end_step = RunJournal.end_step

    async def recorded(self: RunJournal, run: Run, step: str, attempt: int, **fields: Json) -> None:
        await end_step(self, run, step, attempt, **fields)
        ended.append(step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunJournal, "end_step", recorded)
        calls = await undone(harness)
    order = [step for step in ended if step in ("ingest/0", "ingest/1")]
    assert calls == [f"index undo-{step[-1]}" for step in reversed(order)]
    assert errors == [[]]


async def test_a_failed_compensation_does_not_stop_the_others(harness: WorkflowHarness) -> None:
    for name in ("index undo-0", "index undo-1"):
        harness.calls.failures[name] = [InvalidRequest("cannot undo")]
    assert sorted(await undone(harness)) == ["index undo-0", "index undo-1"]
    assert sorted(errors[0]) == [f"the compensation of 'ingest/{i}' failed: cannot undo" for i in (0, 1)]


async def test_a_compensation_is_retried_and_is_a_step_of_the_run(harness: WorkflowHarness) -> None:
    harness.calls.failures["index undo-0"] = [Unavailable("gone")]
    assert sorted(await undone(harness)) == ["index undo-0", "index undo-0", "index undo-1"]
    begun = [record["resource"].partition("/")[2] for record in harness.audit("step.begin")]
    assert sorted(step for step in begun if "undo" in step) == ["ingest/0~undo", "ingest/0~undo", "ingest/1~undo"]


async def test_a_step_that_did_not_start_is_not_undone(harness: WorkflowHarness) -> None:
    harness.calls.failures["index file-0"] = [InvalidRequest("no pages")]
    await harness.wait_until_ended(await harness.start(1))
    assert [name for name in harness.calls.names if "undo" in name] == []
    assert errors == [[]]
