"""Crash recovery of control nodes and waiting steps: decisions and deadlines come from the journal."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from drw.api.workflow.v1.orchestration_pb2 import SUCCEEDED, DecideApprovalRequest, Run, Vote
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.api.workflow.v1.templates_pb2 import PutTemplateRequest
from drw.api.workflow.v1.templates_rpc import TemplatesClient
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.rpc.json_messages import json_value
from drw.kernel.runtime.settings import Profile
from support.hosting import SECRET
from workflow import test_crash
from workflow.doubles import until
from workflow.test_crash import CrashHarness, Process, _crash_harness

ALL = """
name: all
description: Uses each kind of control node.
inputs:
  files: {type: FILES, required: true}
nodes:
  - id: each
    uses: map
    with: {items: "${inputs.files}", concurrency: 2}
    nodes:
      - {id: read, uses: serving.summarise, with: {file: "${item}"}}
      - id: route
        uses: switch
        needs: [read]
        cases:
          - when: ${item == 'file-1'}
            nodes: [{id: put, uses: ingest, with: {file: "${item}", collection: one}}]
            output: ${steps.put.output.collection}
          - output: none
    output: ${steps.route.output}
  - id: again
    uses: loop
    needs: [each]
    with: {max_iterations: 3}
    nodes: [{id: put2, uses: ingest, with: {file: "file-${index + 10}", collection: loop}}]
    output: ${index}
  - {id: pause, uses: wait, needs: [again], with: {seconds: 0.5}}
  - {id: ok, uses: approval, needs: [pause], with: {title: "Go?", quorum: 2, deadline_seconds: 600}}
  - {id: child, uses: workflow, needs: [ok], with: {template: digest, inputs: {files: ["file-20"]}}}
  - {id: last, uses: ingest, needs: [child], with: {file: file-30, collection: "${steps.child.output.name}"}}
output: {routes: "${steps.each.output}", last: "${steps.again.output}", until: "${steps.pause.output.until}"}
"""


@pytest.fixture
async def harness(
    profile: Profile, folder: Path, caller: Principal, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[CrashHarness]:
    """Processes with the authentication service, which tells persons apart."""
    services = test_crash.PROFILE.replace('"orchestration"]', '"orchestration", "authentication", "rate_limiting"]')
    assert services != test_crash.PROFILE
    secret = f'\n[services.authentication]\nsecret = "{SECRET}"\n'
    monkeypatch.setattr(test_crash, "PROFILE", services + secret)
    async with _crash_harness(profile, folder, replace(caller, key="oidc:corp:starter")) as harness:
        yield harness


async def put(harness: CrashHarness, process: Process) -> None:
    with acting_for(harness.caller):
        client = harness.channels.client(TemplatesClient, process.address)
        await client.put_template(PutTemplateRequest(name="all", source=ALL))


async def approve(harness: CrashHarness, process: Process, run: Run, key: str) -> None:
    request = DecideApprovalRequest(run=run.id, step="ok", decision=Vote.APPROVE)
    with acting_for(replace(harness.caller, key=key)):
        await harness.channels.client(OrchestrationClient, process.address).decide_approval(request)


def decisions(harness: CrashHarness) -> dict[str, str]:
    """Return what each step decided."""
    with psycopg.connect(harness.profile.postgres) as connection:
        query = "select run || '/' || id, decision::text from orchestration.step where decision is not null"
        return dict(connection.execute(query).fetchall())


async def test_a_kill_inside_each_kind_of_node_repeats_no_finished_step(harness: CrashHarness) -> None:
    blocks = {
        name: harness.doubles.calls.block(name)
        for name in ("chat file-1", "index file-1", "index file-11", "chat file-20", "index file-30")
    }
    process = await harness.start_leader()
    await put(harness, process)
    run = await harness.start_run(process, 3, "all")
    seen: dict[str, str] = {}

    async def kill() -> None:
        finished = harness.succeeded_steps(run)
        process.kill()
        assert harness.succeeded_steps(run) >= finished
        recorded = decisions(harness)
        assert {step: recorded[step] for step in seen} == seen
        seen.update(recorded)

    for name, release in blocks.items():
        if name == "chat file-20":
            await until(lambda: len(harness.records("approval.request")) == 1, "the approval")
            await approve(harness, process, run, "oidc:corp:a")
            await kill()
            process.start()
            await until(process.is_leader, "leadership")
            await approve(harness, process, run, "oidc:corp:b")
        await harness.wait_for_call(name)
        await kill()
        release.set()
        process.start()
        await until(process.is_leader, "leadership")
    ended = await harness.wait_until_ended(process, run)
    assert ended.state == SUCCEEDED, ended.error
    recorded = decisions(harness)
    assert {step: recorded[step] for step in seen} == seen
    until_time = json_value(ended.output)["until"]
    assert json_value(ended.output) == {"routes": ["none", "one", "none"], "last": 2, "until": until_time}
    assert until_time in seen[f"{run.id}/pause"]
    attempts = {step.id: step.attempts for step in ended.steps}
    in_flight = {"each.1.read", "each.0.read", "each.2.read", "each.1.route.0.put", "again.1.put2", "last"}
    assert {step for step, count in attempts.items() if count > 1} <= in_flight
    ends = Counter(harness.records("step.end"))
    assert set(ends.values()) == {1} and {f"{run.id}/{step}" for step in attempts} <= ends.keys()
    assert len(harness.records("run.end")) == len(harness.records("run.start")) == 2  # the run and its child
    assert harness.records("approval.vote") == [f"{run.id}/ok"] * 2
