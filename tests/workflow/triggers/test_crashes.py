"""Processes that are killed or frozen at any statement: each event starts exactly one run of a trigger."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.settings import Profile
from workflow.doubles import until
from workflow.triggers.triggering import Triggering, indexed, triggering

TESTS = Path(__file__).parents[2]


@pytest.fixture
async def t(profile: Profile, caller: Principal) -> AsyncIterator[Triggering]:
    async with triggering(profile, caller) as built:
        yield built


def trigger_process(mode: str, t: Triggering, *args: str) -> subprocess.Popen[bytes]:
    file = t.profile.data / "profile.json"
    file.write_text(t.profile.model_dump_json())
    command = [sys.executable, "-m", "workflow.triggers.trigger_process", mode, str(file), *args]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(TESTS)}, stdout=subprocess.PIPE)


async def test_a_process_killed_before_any_statement_starts_each_run_once(t: Triggering) -> None:
    for name in ("a", "b"):
        await t.create(name)
    process = trigger_process("kill", t)
    output, _ = await asyncio.to_thread(process.communicate)
    assert process.returncode == 0
    events = int(output)
    assert events > 20  # the receipt with two firings, and the start of two runs
    expected = [f"event-{number:03}" for number in range(1, events + 1)]
    assert sorted(t.started()) == sorted(expected * 2)
    assert len(t.rows("select distinct trigger, event from run")) == events * 2
    assert len(t.audit("run.start")) == events * 2
    assert [(await t.get(name)).waiting for name in ("a", "b")] == [0, 0]


@pytest.mark.parametrize("statement", ["insert into trigger_firing", "for update of t skip locked", "insert into run "])
async def test_a_frozen_process_is_replaced_and_starts_nothing_when_it_wakes(t: Triggering, statement: str) -> None:
    await t.create()
    process = trigger_process("stop", t, statement)
    await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert process.poll() is None and t.started() == []
    try:

        async def is_started() -> bool:
            t.due()
            await t.receive(indexed(t.caller, id="event-001"))  # the bus delivers it again
            return t.started() == ["event-001"]

        await until(is_started, "the start by another process")
        process.send_signal(signal.SIGCONT)
        await asyncio.to_thread(process.communicate, None, 120)
        await t.settle()
        assert t.started() == ["event-001"] and len(t.audit("run.start")) == 1
    finally:
        process.kill()
        process.communicate()
