"""Payloads: values above 64 KiB are stored as blobs of the desk, verified when they are read, and deleted."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drw.api.workflow.v1.orchestration_pb2 import FAILED, SUCCEEDED, Run
from drw.events.publisher import create_tables
from drw.kernel.errors import NotFound, TooLarge
from drw.kernel.rpc.context import Principal
from drw.kernel.rpc.json_messages import json_value
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Database
from drw.workflow.orchestration.payloads.payload_store import Limits, PayloadDamaged, PayloadStore
from workflow.control.controls import control_harness, controls, execute
from workflow.doubles import until
from workflow.harness import WorkflowHarness

LARGE = """
name: large
description: Passes large values on.
inputs:
  title: {type: STRING, default: ""}
  size: {type: INTEGER, default: 200000}
nodes:
  - {id: make, uses: python, with: {function: text, arguments: {size: "${inputs.size}"}}}
  - {id: own, uses: workflow, needs: [make], with: {template: child, inputs: {value: "${steps.make.output}"}}}
  - id: each
    uses: map
    needs: [make]
    with: {items: ["${steps.make.output.text}", "${inputs.title}"]}
    nodes: [{id: count, uses: python, with: {function: length, arguments: {text: "${item}"}}}]
    output: ${steps.count.output}
  - {id: sign, uses: wait, needs: [own, each], with: {seconds: 0.01}}
output: {made: "${steps.make.output}", own: "${steps.own.output}", lengths: "${steps.each.output}"}
"""
CHILD = """
name: child
description: Returns its input.
inputs:
  value: {type: OBJECT, required: true}
nodes:
  - {id: count, uses: python, with: {function: length, arguments: {text: "${inputs.value.text}"}}}
output: {value: "${inputs.value}", count: "${steps.count.output}"}
"""
TEXT = {"text": "x" * 200_000, "number": 2**53 + 1}


@pytest.fixture
async def harness(profile: Profile, folder: Path, caller: Principal) -> AsyncIterator[WorkflowHarness]:
    limits = {"max_payload_bytes": 1 << 20, "max_run_payload_bytes": 1_500_000}
    async with control_harness(profile, folder, caller, **limits) as harness:
        await harness.put(CHILD)
        await harness.put(LARGE)
        yield harness


@pytest.fixture
async def store(profile: Profile, tmp_path: Path) -> AsyncIterator[PayloadStore]:
    database = Database(profile.postgres, "orchestration")
    await database.start("drw.workflow.orchestration")
    await create_tables(database)
    yield PayloadStore(database, tmp_path / "own", Limits(1 << 20, 1 << 20, 2 << 20))
    await database.stop()


def blobs(harness: WorkflowHarness) -> list[Path]:
    return sorted((harness.profile.data / "orchestration" / "payloads").glob("*/content/??/*"))


async def finished(harness: WorkflowHarness, **inputs: Any) -> Run:
    return await harness.wait_until_ended(await harness.start(0, template="large", **inputs))


async def test_large_values_pass_through_inputs_steps_children_and_output(harness: WorkflowHarness) -> None:
    title = "t" * 100_000
    run = await finished(harness, title=title)
    assert run.state == SUCCEEDED, run.error
    assert json_value(run.inputs) == {"size": 200_000}  # the small ones
    assert not run.output.text and run.output_payload.bytes > 400_000
    inputs = await controls(harness).payload(run, run.inputs_payload.sha256)
    assert json_value(inputs.value) == {"size": 200_000, "title": title}
    output = await controls(harness).payload(run, run.output_payload.sha256)
    assert json_value(output.value) == {
        "made": TEXT,
        "own": {"value": TEXT, "count": 200_000},
        "lengths": [200_000, 100_000],
    }
    assert hashlib.sha256(output.value.text.encode()).hexdigest() == output.sha256
    step = {step.id: step for step in run.steps}["make"]
    made = await controls(harness).payload(run, step.output_payload.sha256)
    assert json_value(made.value) == TEXT and made.bytes == step.output_payload.bytes
    assert json_value({s.id: s for s in run.steps}["each"].output) == [200_000, 100_000]


async def test_values_above_the_bounds_are_refused(harness: WorkflowHarness) -> None:
    with pytest.raises(TooLarge, match=r"the inputs have 11..... bytes; at most 1048576"):
        await harness.start(0, template="large", title="t" * 1_100_000)
    run = await finished(harness, size=1_100_000)
    assert run.state == FAILED
    assert run.error.startswith("the step 'make' failed: the value has 11") and "at most 1048576" in run.error
    run = await finished(harness, size=450_000)  # its steps together exceed the bound of a run
    assert run.state == FAILED and "the payloads of the run would have" in run.error and "at most 1500000" in run.error


async def test_an_approval_shows_no_large_details(harness: WorkflowHarness) -> None:
    source = (
        "name: shown\ndescription: x\nnodes:\n"
        "  - {id: make, uses: python, with: {function: text, arguments: {size: 100000}}}\n"
        '  - {id: sign, uses: approval, needs: [make], with: {title: Go, details: "${steps.make.output}"}}\noutput: 1\n'
    )
    await harness.put(source)
    run = await harness.wait_until_ended(await harness.start(0, template="shown"))
    assert run.state == FAILED and "the step 'sign' failed: details has 100" in run.error


async def test_payloads_are_of_one_run_and_of_one_tenant(harness: WorkflowHarness) -> None:
    run = await finished(harness)
    other = await harness.start(1)
    sha256 = run.output_payload.sha256
    with pytest.raises(NotFound, match="has no payload"):
        await controls(harness).payload(other, sha256)
    for stranger in (
        replace(harness.caller, org="other"),
        replace(harness.caller, desk="other"),
    ):
        with pytest.raises(NotFound, match="there is no run"):
            await controls(harness, stranger).payload(run, sha256)


async def test_two_desks_with_the_same_value_have_two_blobs(store: PayloadStore, caller: Principal) -> None:
    data = b'"' + b"x" * 100_000 + b'"'
    other = replace(caller, desk="other")
    first, second = await store.store(caller, "run_a", data), await store.store(other, "run_b", data)
    assert first.reference is not None and second.reference is not None
    assert first.reference.obj == second.reference.obj
    sha256 = first.reference.obj["sha256"]
    assert await store.read(other, "run_a", sha256) is None
    await store.delete(["run_a"])
    assert await store.read(other, "run_b", sha256) == data
    with pytest.raises(PayloadDamaged):
        await store.load(caller, None, first.reference.obj)


async def test_a_damaged_blob_fails_the_read_and_is_replaced_by_the_next_write(
    store: PayloadStore, caller: Principal, tmp_path: Path
) -> None:
    data = b'"' + b"y" * 100_000 + b'"'
    stored = await store.store(caller, "run_a", data)
    assert stored.reference is not None
    (blob,) = (tmp_path / "own").glob("*/content/??/*")
    for damage in (b"short", data.replace(b"y", b"z", 1)):
        blob.write_bytes(damage)
        with pytest.raises(PayloadDamaged, match="missing or damaged"):
            await store.load(caller, None, stored.reference.obj)
    await store.store(caller, "run_b", data)
    assert await store.load(caller, None, stored.reference.obj) == "y" * 100_000


async def test_a_run_with_a_damaged_payload_fails_and_a_retry_from_the_step_succeeds(harness: WorkflowHarness) -> None:
    harness.calls.block("index file-0")
    source = LARGE.replace("name: large", "name: damaged").replace(
        "{id: sign, uses: wait, needs: [own, each], with: {seconds: 0.01}}",
        '{id: sign, uses: ingest, needs: [own, each], with: {file: file-0, collection: "${string(1)}"}}',
    )
    await harness.put(source)
    run = await harness.start(0, template="damaged")
    await until(lambda: "index file-0" in harness.calls.names, "the last step")
    await harness.cancel(run)
    sha256 = (await harness.step(run, "make")).output_payload.sha256
    (blob,) = [path for path in blobs(harness) if path.name == sha256]
    blob.unlink()
    harness.calls.gates.pop("index file-0").set()
    failed = await harness.wait_until_ended(await controls(harness).retry(run, "sign"))
    assert failed.state == FAILED and "missing or damaged" in failed.error
    retried = await harness.wait_until_ended(await controls(harness).retry(failed, "make"))
    assert retried.state == SUCCEEDED, retried.error


async def test_deleting_a_run_keeps_the_blobs_that_a_fork_uses(harness: WorkflowHarness, store: PayloadStore) -> None:
    run = await finished(harness)
    fork = await harness.wait_until_ended(await controls(harness).fork(run, "sign"))
    assert fork.state == SUCCEEDED, fork.error
    store = PayloadStore(store._database, harness.profile.data / "orchestration" / "payloads", store.limits)
    sha256 = (await harness.step(fork, "make")).output_payload.sha256
    execute(harness.profile, "delete from run where id = %s", [run.id])
    assert await store.delete([run.id]) > 0
    assert json_value((await controls(harness).payload(fork, sha256)).value) == TEXT
    assert await store.sweep() == 0  # the payloads of the child are too young
    execute(harness.profile, "delete from run where id = %s", [fork.id])
    execute(harness.profile, "update payload set created_at = created_at - interval '2 hours'")
    assert await store.sweep() > 0
    assert blobs(harness) == [] and execute(harness.profile, "select * from payload") == []


async def test_a_blob_survives_when_another_run_stores_it_during_the_deletion(
    store: PayloadStore, caller: Principal
) -> None:
    data = b'"' + b"x" * 100_000 + b'"'
    for number in range(20):
        old, new = f"run_{number}", f"run_{number + 1}"
        await store.store(caller, old, data)
        stored, _ = await asyncio.gather(store.store(caller, new, data), store.delete([old]))
        assert stored.reference is not None
        assert await store.load(caller, None, stored.reference.obj) == "x" * 100_000


async def test_the_payloads_of_a_desk_have_a_bound(store: PayloadStore, caller: Principal) -> None:
    for number in range(2):
        await store.store(caller, f"run_{number}", b'"' + str(number).encode() * 1_000_000 + b'"')
    with pytest.raises(TooLarge, match="the payloads of the desk 'research' would have"):
        await store.check(caller, "run_3", 200_000)
    await store.check(replace(caller, desk="other"), "run_3", 200_000)
    await store.delete(["run_0"])
    await store.check(caller, "run_3", 200_000)
