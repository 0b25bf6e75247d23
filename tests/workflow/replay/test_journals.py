"""Recorded journals of each kind of node, replayed: a change that breaks running runs fails here.

`UPDATE_JOURNALS=1 .venv/bin/pytest tests/workflow/replay/test_journals.py` records them again. Do so for a new kind of
node, or with a new version of the engine's records: the runs of a deployment were recorded by the old code.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from drw.api.workflow.v1.orchestration_pb2 import RUNNING, Vote
from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.settings import Profile
from drw.workflow.orchestration.activities import ACTIVITIES
from drw.workflow.orchestration.execution.block_execution import _CONTROL
from drw.workflow.orchestration.execution.dependency_graph import all_nodes
from drw.workflow.orchestration.execution.waiting import WAITING
from drw.workflow.orchestration.replay.recorded import RecordedRun
from drw.workflow.orchestration.replay.replayer import replay
from workflow.doubles import until
from workflow.harness import FAST_SETTINGS, WorkflowHarness, step_is, workflow_harness
from workflow.replay.recording import recorded, source
from workflow.replay.sources import CHILD, SOURCES

JOURNALS = Path(__file__).with_name("journals")
SETTINGS = FAST_SETTINGS | {
    "orchestration": FAST_SETTINGS["orchestration"] | {"functions": {"double": "workflow.functions:double"}}
}
WITHOUT_JOURNAL = {"event", "http", *(name for name in ACTIVITIES if name.startswith("models."))}
"""They need types of events, a server, or a registry. Replay does not call activities, so that all are alike to it."""


def journal(name: str) -> RecordedRun:
    return RecordedRun.from_json((JOURNALS / f"{name}.json").read_bytes())


@pytest.mark.skipif("UPDATE_JOURNALS" not in os.environ, reason="UPDATE_JOURNALS is not set")
async def test_record(profile: Profile, folder: Path, caller: Principal) -> None:
    async with workflow_harness(profile, folder, caller, services=SETTINGS) as harness:
        await harness.put(source("grow", *CHILD))
        for name, parts in SOURCES.items():
            await harness.put(source(name, *parts))
            run = await harness.start(0, template=name)
            if name == "approval":
                await until(lambda run=run: step_is(harness, run, "ok", RUNNING), "the approval")  # type: ignore[misc]
                await harness.decide(run, "ok", "key_2", Vote.APPROVE)
            await harness.wait_until_ended(run)
            (JOURNALS / f"{name}.json").write_bytes((await recorded(harness, run)).to_json() + b"\n")


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_recorded_journal_is_replayed_without_divergence(name: str) -> None:
    run = journal(name)
    result = replay(run)
    assert result.divergence == ""
    assert run.state == ("FAILED" if name == "failure" else "SUCCEEDED")
    assert result.steps >= len([step for step in run.steps if step.state in ("SUCCEEDED", "FAILED")])


def test_each_kind_of_node_has_a_journal() -> None:
    used = {node.uses for name in SOURCES for node in all_nodes(journal(name).template.nodes)}
    assert used >= {*ACTIVITIES, *WAITING, *_CONTROL} - WITHOUT_JOURNAL, "add a template to sources.py, and record it"


async def test_present_runs_are_replayed(profile: Profile, folder: Path, caller: Principal) -> None:
    """The journals above may be old: the present code also replays what it records itself, of a run in flight too."""
    async with workflow_harness(profile, folder, caller, services=SETTINGS) as harness:
        await _check(harness)


async def _check(harness: WorkflowHarness) -> None:
    block = harness.calls.block("chat file-1")
    run = await harness.start(3)

    async def is_blocked() -> bool:
        return (await step_is(harness, run, "summarise/0", 3)) and (await step_is(harness, run, "summarise/1", RUNNING))

    await until(is_blocked, "the blocked step")
    calls = list(harness.calls.names)
    for _ in range(2):
        result = await asyncio.to_thread(replay, await recorded(harness, run))
        assert result.divergence == "" and result.steps >= 4
    assert harness.calls.names == calls, "a replay has no effect"
    block.set()
    await harness.wait_until_ended(run)
    result = await asyncio.to_thread(replay, await recorded(harness, run))
    assert (result.divergence, result.steps) == ("", 7)
