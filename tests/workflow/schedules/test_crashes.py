"""Schedulers that are killed or frozen at any statement: each occurrence starts exactly one run."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from drw.api.workflow.v1.schedules_pb2 import ScheduleSpec
from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.settings import Profile
from workflow.doubles import until
from workflow.schedules.scheduling import Scheduling, scheduling

TESTS = Path(__file__).parents[2]


@pytest.fixture
async def s(profile: Profile, caller: Principal) -> AsyncIterator[Scheduling]:
    async with scheduling(profile, caller) as built:
        yield built


def scheduler_process(mode: str, s: Scheduling, *args: str) -> subprocess.Popen[bytes]:
    file = s.profile.data / "profile.json"
    file.write_text(s.profile.model_dump_json())
    command = [sys.executable, "-m", "workflow.schedules.scheduler_process", mode, str(file), *args]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(TESTS)}, stdout=subprocess.PIPE)


async def test_a_scheduler_killed_before_any_statement_starts_each_run_once(s: Scheduling) -> None:
    await s.create(overlap=ScheduleSpec.ALLOW)
    process = scheduler_process("kill", s)
    output, _ = await asyncio.to_thread(process.communicate)
    assert process.returncode == 0
    occurrences = int(output)
    assert occurrences > 15  # one transaction for the start, and the reads around it
    hours = [12 + n for n in range(1, occurrences + 1)]
    assert s.started() == [f"{24 + hour // 24} {hour % 24:02}:00" for hour in hours]
    assert len(s.audit("run.start")) == occurrences
    ticks = s.rows("select number, outcome from schedule_tick order by number")
    assert [(t["number"], t["outcome"]) for t in ticks] == [(n, "STARTED") for n in range(1, occurrences + 1)]
    assert len(s.rows("select run from step group by run having count(*) = 3")) == occurrences


@pytest.mark.parametrize("statement", ["for update skip locked", "insert into schedule_tick"])
async def test_a_frozen_scheduler_is_replaced_and_starts_nothing_when_it_wakes(s: Scheduling, statement: str) -> None:
    await s.create()
    process = scheduler_process("stop", s, statement)
    await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert process.poll() is None and s.started() == []
    try:
        s.clock.advance(hours=1)

        async def is_started() -> bool:
            await s.settle()
            return s.started() == ["24 13:00"]

        await until(is_started, "the start by another process")
        process.send_signal(signal.SIGCONT)
        await asyncio.to_thread(process.communicate, None, 120)
        await s.settle()
        assert s.started() == ["24 13:00"] and len(s.audit("run.start")) == 1
    finally:
        process.kill()
        process.communicate()
