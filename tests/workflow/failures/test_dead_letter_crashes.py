"""Dead letters and redrives after kills: no run is started twice, and a run that kills its process ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from drw.api.workflow.v1.error_handling_pb2 import (
    DeadLetter,
    DeadLetterFilter,
    GetRedriveRequest,
    ListDeadLettersRequest,
    Redrive,
    RedriveDeadLettersRequest,
)
from drw.api.workflow.v1.error_handling_rpc import ErrorHandlingClient
from drw.api.workflow.v1.orchestration_pb2 import FAILED, PERMANENT, SUCCEEDED, Run
from drw.kernel.errors import InvalidRequest, Unavailable
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from workflow import test_crash
from workflow.doubles import until
from workflow.test_crash import CrashHarness, Process, _crash_harness

SERVICES = '["templates", "state", "orchestration", "error_handling"]'


@pytest.fixture
async def harness(
    profile: Profile, folder: Path, caller: Principal, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[CrashHarness]:
    settings = "max_interruptions = 2\n\n[services.error_handling]\npoll_seconds = 0.05\n"
    text = test_crash.PROFILE.replace('["templates", "state", "orchestration"]', SERVICES) + settings
    monkeypatch.setattr(test_crash, "PROFILE", text)
    async with _crash_harness(profile, folder, caller) as harness:
        yield harness


async def letters(harness: CrashHarness, process: Process) -> list[DeadLetter]:
    with acting_for(harness.caller), suppress(Unavailable):
        client = harness.channels.client(ErrorHandlingClient, process.address)
        return list((await client.list_dead_letters(ListDeadLettersRequest(page_size=500))).dead_letters)
    return []


async def wait_for_letters(harness: CrashHarness, process: Process, count: int) -> list[DeadLetter]:
    async def are_stored() -> bool:
        return len(await letters(harness, process)) == count

    await until(are_stored, f"{count} dead letters")
    return await letters(harness, process)


async def fail(harness: CrashHarness, process: Process, count: int) -> list[Run]:
    runs = []
    for _ in range(count):
        harness.doubles.calls.failures["index file-0"] = [InvalidRequest("no pages")]
        runs.append(await harness.wait_until_ended(process, await harness.start_run(process, 1)))
    assert [run.state for run in runs] == [FAILED] * count
    return runs


async def get_redrive(harness: CrashHarness, process: Process, redrive: Redrive) -> Redrive | None:
    with acting_for(harness.caller), suppress(Unavailable):
        client = harness.channels.client(ErrorHandlingClient, process.address)
        return await client.get_redrive(GetRedriveRequest(redrive=redrive.id))
    return None


async def test_a_redrive_continues_after_kills_and_starts_each_run_once(harness: CrashHarness) -> None:
    process = await harness.start_leader()
    await fail(harness, process, 6)
    failed = await wait_for_letters(harness, process, 6)
    harness.doubles.calls.block("index file-0")
    request = RedriveDeadLettersRequest(
        filter=DeadLetterFilter(group=failed[0].group), runs_per_minute=6000, request_id="once"
    )
    with acting_for(harness.caller):
        client = harness.channels.client(ErrorHandlingClient, process.address)
        redrive = await client.redrive_dead_letters(request)
    await harness.wait_for_call("index file-0", 7)  # the probe
    process.kill()  # during the probe
    harness.doubles.calls.gates.pop("index file-0").set()
    process.start()

    async def has_started(count: int) -> bool:
        shown = await get_redrive(harness, process, redrive)
        return shown is not None and shown.started >= count

    await until(lambda: has_started(2), "the first run after the probe")
    process.kill()  # between two runs
    process.start()

    async def has_ended() -> bool:
        shown = await get_redrive(harness, process, redrive)
        return shown is not None and shown.state == Redrive.ENDED

    await until(has_ended, "the end of the redrive")
    with acting_for(harness.caller):
        client = harness.channels.client(ErrorHandlingClient, process.address)
        again = await client.redrive_dead_letters(request)
    assert (again.id, again.started, again.dead_letters) == (redrive.id, 6, 6)
    with psycopg.connect(harness.profile.postgres) as connection:
        rows = connection.execute("select restart_of from orchestration.run where restart_of <> ''").fetchall()
    assert Counter(row[0] for row in rows) == {letter.run: 1 for letter in failed}
    redriven = await letters(harness, process)
    assert {letter.state for letter in redriven} == {DeadLetter.REDRIVEN}
    for letter in redriven:
        run = await harness.wait_until_ended(process, Run(id=letter.redriven_run))
        assert run.state == SUCCEEDED, run.error


async def test_a_failure_is_stored_after_a_kill_once(harness: CrashHarness) -> None:
    process = await harness.start_leader()
    await fail(harness, process, 1)
    process.kill()  # before or after it is stored
    process.start()
    (letter,) = await wait_for_letters(harness, process, 1)
    await fail_after(harness, process)
    assert [later.run for later in await wait_for_letters(harness, process, 2)][1] == letter.run


async def fail_after(harness: CrashHarness, process: Process) -> None:
    await until(process.is_leader, "leadership")
    await fail(harness, process, 1)


async def test_a_run_that_kills_its_process_fails_and_others_succeed(harness: CrashHarness) -> None:
    process = await harness.start_leader()
    name = "index file-0"
    harness.doubles.calls.block(name)
    poison = await harness.start_run(process, 1)
    for kills in range(1, 4):
        await harness.wait_for_call(name, kills)
        process.kill()  # as the step would
        process.start()
    ended = await harness.wait_until_ended(process, poison)
    assert (ended.state, harness.call_count(name)) == (FAILED, 3)
    assert ended.error == "interrupted 3 times without a finished step: it may end the process that executes it"
    (letter,) = await wait_for_letters(harness, process, 1)
    assert (letter.run, letter.step, letter.failure_class) == (poison.id, "ingest/0", PERMANENT)
    harness.doubles.calls.gates.pop(name).set()
    await until(process.is_leader, "leadership")
    assert (await harness.wait_until_ended(process, await harness.start_run(process, 1))).state == SUCCEEDED
