"""kill -9 of the process: pauses, signals and payloads that were acknowledged are there afterwards, once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from drw.api.workflow.v1.orchestration_pb2 import PAUSED, SUCCEEDED, Run, Signal, StartRunRequest
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.api.workflow.v1.templates_pb2 import PutTemplateRequest
from drw.api.workflow.v1.templates_rpc import TemplatesClient
from drw.kernel.errors import Unavailable
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.rpc.json_messages import json_message, json_value
from drw.kernel.runtime.settings import Profile
from workflow.control.controls import Controls, execute
from workflow.doubles import until
from workflow.test_crash import CrashHarness, Process, _crash_harness

SIGNALS = 8
COLLECT = f"""
name: collect
description: Waits for signals, one after the other.
inputs:
  text: {{type: STRING, required: true}}
nodes:
  - id: again
    uses: loop
    with: {{max_iterations: {SIGNALS}}}
    nodes:
      - {{id: next, uses: wait, with: {{signal: item}}}}
      - {{id: put, uses: ingest, needs: [next], with: {{file: file-0, collection: "${{steps.next.output.payload}}"}}}}
    output: "${{(index == 0 ? [] : previous) + [steps.put.output.collection]}}"
output: {{items: "${{steps.again.output}}", text: "${{inputs.text}}"}}
"""


@pytest.fixture
async def harness(profile: Profile, folder: Path, caller: Principal) -> AsyncIterator[CrashHarness]:
    async with _crash_harness(profile, folder, caller) as harness:
        yield harness


def controls(harness: CrashHarness, process: Process) -> Controls:
    return Controls(harness.channels.client(OrchestrationClient, process.address), harness.caller)


async def start_collect(harness: CrashHarness, process: Process) -> Run:
    request = StartRunRequest(template="collect", inputs=json_message({"text": "x" * 300_000}))
    with acting_for(harness.caller):
        put = PutTemplateRequest(name="collect", source=COLLECT)
        await harness.channels.client(TemplatesClient, process.address).put_template(put)
        return await harness.channels.client(OrchestrationClient, process.address).start_run(request)


async def test_a_pause_survives_a_kill(harness: CrashHarness) -> None:
    release = harness.doubles.calls.block("index file-0")
    process = await harness.start_leader()
    run = await harness.start_run(process, 1)
    await harness.wait_for_call("index file-0")
    await controls(harness, process).pause(run)
    process.kill()
    release.set()
    for _ in range(2):
        process.start()
        await until(process.is_leader, "leadership")
        other = await harness.start_run(process, 2)
        assert (await harness.wait_until_ended(process, other)).state == SUCCEEDED
        assert (await harness.get(process, run)).state == PAUSED
        process.kill()
    assert harness.succeeded_steps(run) == set()
    process.start()
    await until(process.is_leader, "leadership")
    await controls(harness, process).resume(run)
    ended = await harness.wait_until_ended(process, run)
    assert ended.state == SUCCEEDED, ended.error


async def test_acknowledged_signals_are_received_once_in_order_although_the_process_is_killed(
    harness: CrashHarness,
) -> None:
    process = await harness.start_leader()
    run = await start_collect(harness, process)
    assert run.inputs_payload.bytes > 300_000

    async def send(number: int) -> Signal:
        """Send a signal again until it is acknowledged."""
        sent: list[Signal] = []

        async def is_sent() -> bool:
            with suppress(Unavailable):
                sent.append(await controls(harness, process).signal(run, "item", str(number), f"c{number}"))
            return bool(sent)

        await until(is_sent, f"signal {number}")
        return sent[0]

    for number in range(SIGNALS):
        sending = asyncio.create_task(send(number))
        if number % 2:
            count = len(harness.records("run.signal"))
            await until(lambda: len(harness.records("run.signal")) > count or sending.done(), "the signal")  # noqa: B023
            process.kill()
            process.start()
        await sending
    ended = await harness.wait_until_ended(process, run)
    assert ended.state == SUCCEEDED, ended.error
    output = json_value((await controls(harness, process).payload(run, ended.output_payload.sha256)).value)
    assert output == {"items": [f"c{number}" for number in range(SIGNALS)], "text": "x" * 300_000}
    rows = execute(harness.profile, "select id, step from run_signal order by number")
    assert rows == [(str(number), f"again.{number}.next") for number in range(SIGNALS)]
    assert Counter(harness.records("run.signal")) == {run.id: SIGNALS}
    assert set(Counter(harness.records("step.end")).values()) == {1}
