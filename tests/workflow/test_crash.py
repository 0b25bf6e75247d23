"""Crash recovery: a run finishes after its process is killed, and no finished step runs twice."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import psycopg
import pytest
import redis

from drw.api.kernel.v1.kernel_pb2 import GetStatusRequest
from drw.api.kernel.v1.kernel_rpc import ProcessClient
from drw.api.workflow.v1.orchestration_pb2 import (
    SUCCEEDED,
    GetRunRequest,
    Run,
    StartRunRequest,
)
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.api.workflow.v1.state_pb2 import WatchRunRequest
from drw.api.workflow.v1.state_rpc import StateClient
from drw.kernel.errors import Unavailable
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.rpc.json_messages import json_message, json_value
from drw.kernel.rpc.transport import Channels
from drw.kernel.runtime.settings import Profile
from workflow.doubles import Doubles, serve_doubles, until

_sequence = itertools.count()

PROFILE = """
name = "test"
data = "{data}"
postgres = "{postgres}"
valkey = "{valkey}"

[processes.workflow]
services = ["templates", "state", "orchestration"]
grpc = "{grpc}"
http = "{grpc}.h"

[processes.doubles]
services = ["documents", "serving", "retrieval"]
grpc = "{doubles}"
http = "{doubles}.h"

[processes.gateway]
services = ["request_router"]
grpc = "{doubles}.k"
http = ""

[services.orchestration]
initial_retry_seconds = 0.05
"""


@dataclass
class Process:
    """One workflow process, which tests kill and restart."""

    profile: Path
    address: str
    log: Path
    channels: Channels
    popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as out:
            command = [sys.executable, "-m", "drw.kernel.runtime.process", "workflow", str(self.profile)]
            self.popen = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)

    def send_signal(self, number: int) -> None:
        assert self.popen is not None
        os.kill(self.popen.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
        assert self.popen is not None
        assert self.popen.wait(30) == -signal.SIGKILL
        self.popen = None

    async def detail(self) -> str:
        """Return the status detail of orchestration; empty while the process does not answer."""
        with suppress(Unavailable):
            status = await self.channels.client(ProcessClient, self.address).get_status(GetStatusRequest())
            return {s.name: s.detail for s in status.services}["orchestration"]
        return ""

    async def is_leader(self) -> bool:
        return (await self.detail()).startswith("leader")


@dataclass
class CrashHarness:
    """Doubles in this process, and workflow processes that call them."""

    profile: Profile
    folder: Path
    doubles: Doubles
    caller: Principal
    channels: Channels = field(default_factory=Channels)
    processes: list[Process] = field(default_factory=list)

    def new_process(self) -> Process:
        base = self.folder / f"w{next(_sequence)}"
        file = base.with_suffix(".toml")
        file.write_text(
            PROFILE.format(
                data=self.profile.data,
                postgres=self.profile.postgres,
                valkey=self.profile.valkey,
                grpc=f"unix:{base}",
                doubles=self.doubles.address,
            )
        )
        process = Process(file, f"unix:{base}", base.with_suffix(".log"), self.channels)
        self.processes.append(process)
        return process

    async def start_leader(self) -> Process:
        process = self.new_process()
        process.start()
        await until(process.is_leader, "leadership")
        return process

    async def start_run(self, process: Process, files: int, template: str = "digest") -> Run:
        request = StartRunRequest(template=template, request_id=f"r{next(_sequence)}")
        request.inputs.CopyFrom(json_message({"files": [f"file-{i}" for i in range(files)]}))
        with acting_for(self.caller):
            return await self.channels.client(OrchestrationClient, process.address).start_run(request)

    async def get(self, process: Process, run: Run) -> Run:
        with acting_for(self.caller):
            client = self.channels.client(OrchestrationClient, process.address)
            return await client.get_run(GetRunRequest(run=run.id))

    async def wait_until_ended(self, process: Process, run: Run) -> Run:
        async def has_ended() -> bool:
            with suppress(Unavailable):
                return (await self.get(process, run)).ended_at.seconds > 0
            return False

        await until(has_ended, f"the end of {run.id}")
        return await self.get(process, run)

    def succeeded_steps(self, run: Run) -> set[str]:
        """Return the ids of the succeeded steps in the database."""
        with psycopg.connect(self.profile.postgres) as connection:
            query = "select id from orchestration.step where run = %s and state = 'SUCCEEDED'"
            return {row[0] for row in connection.execute(query, (run.id,))}

    def records(self, action: str) -> list[str]:
        """Return the resources of the audit records of an action."""
        with psycopg.connect(self.profile.postgres) as connection:
            rows = connection.execute("select record::text from audit.inbox").fetchall()
        return [r["resource"] for r in (orjson.loads(row[0]) for row in rows) if r["action"] == action]

    async def events(self, process: Process, run: Run) -> list[tuple[int, str, str]]:
        with acting_for(self.caller):
            stream = self.channels.client(StateClient, process.address).watch_run(WatchRunRequest(run=run.id))
            return [(int(e.event_id), e.step, e.state) async for e in stream if e.event_id]

    def call_count(self, name: str) -> int:
        return self.doubles.calls.names.count(name)

    async def wait_for_call(self, name: str, times: int = 1) -> None:
        async def was_called() -> bool:
            return self.call_count(name) >= times

        await until(was_called, f"{times} calls of {name!r}")


@asynccontextmanager
async def _crash_harness(profile: Profile, folder: Path, caller: Principal) -> AsyncIterator[CrashHarness]:
    with redis.Redis.from_url(profile.valkey) as valkey:
        valkey.flushdb()
    async with serve_doubles(profile, folder / f"d{next(_sequence)}") as doubles:
        harness = CrashHarness(profile, folder, doubles, caller)
        try:
            yield harness
        finally:
            for process in harness.processes:
                if process.popen:
                    process.popen.kill()
                    process.popen.wait()
            await harness.channels.close()


@pytest.fixture
async def harness(profile: Profile, folder: Path, caller: Principal) -> AsyncIterator[CrashHarness]:
    async with _crash_harness(profile, folder, caller) as harness:
        yield harness


def assert_exactly_once(harness: CrashHarness, run: Run, in_flight: set[str]) -> None:
    """Assert that every step succeeded once, and only steps in flight at a kill have several attempts."""
    assert run.state == SUCCEEDED, run.error
    attempts = {step.id: step.attempts for step in run.steps}
    repeated = {step for step, count in attempts.items() if count > 1}
    assert repeated <= in_flight
    for step in attempts.keys() - in_flight:
        assert attempts[step] == 1
    step_begins = Counter(harness.records("step.begin"))
    assert step_begins == {f"{run.id}/{step}": count for step, count in attempts.items()}
    assert Counter(harness.records("step.end")) == {f"{run.id}/{step}": 1 for step in attempts}
    assert harness.records("run.end") == harness.records("run.start") == [run.id]


async def test_a_run_resumes_after_the_process_is_killed(harness: CrashHarness) -> None:
    release = harness.doubles.calls.block("chat file-2")
    process = await harness.start_leader()
    run = await harness.start_run(process, 5)
    await harness.wait_for_call("chat file-2")

    async def others_succeeded() -> bool:
        return len(harness.succeeded_steps(run)) == 9  # all but summarise/2 and digest

    await until(others_succeeded, "the end of all other steps")
    finished = harness.succeeded_steps(run)
    before = Counter(harness.doubles.calls.names)
    process.kill()
    release.set()
    process.start()
    ended_run = await harness.wait_until_ended(process, run)
    assert_exactly_once(harness, ended_run, in_flight={"summarise/2"})
    after = Counter(harness.doubles.calls.names) - before
    assert after == {"read file-2": 1, "chat file-2": 1, f"put digest-{run.id}.md": 1}
    assert harness.succeeded_steps(run) - finished == {"summarise/2", "digest"}
    text = json_value(ended_run.output)["text"]
    assert [f"Text of file-{i}" in text for i in range(5)] == [True] * 5
    events = await harness.events(process, run)
    assert [number for number, _, _ in events] == list(range(1, len(events) + 1))
    assert events[-1][1:] == ("", "succeeded")
    assert Counter(step for _, step, state in events if state == "succeeded") == {s.id: 1 for s in ended_run.steps} | {
        "": 1
    }


async def test_a_run_finishes_after_several_kills(harness: CrashHarness) -> None:
    process = await harness.start_leader()
    blocked = {name: harness.doubles.calls.block(name) for name in ("index file-3", "chat file-1")}
    run = await harness.start_run(process, 4)
    put = f"put digest-{run.id}.md"
    blocked[put] = harness.doubles.calls.block(put)
    await harness.wait_for_call("chat file-1")
    all_steps = {f"{name}/{number}" for name in ("ingest", "summarise") for number in range(4)} | {"digest"}
    in_flight: set[str] = set()
    for kills, name in enumerate(blocked):
        # "chat file-1" is in flight at the first two kills.
        await harness.wait_for_call(name, 2 if name == "chat file-1" else 1)
        finished = harness.succeeded_steps(run)
        in_flight |= all_steps - finished
        process.kill()
        assert harness.succeeded_steps(run) >= finished and len(harness.records("run.end")) == 0, f"after {kills} kills"
        blocked[name].set()
        process.start()
    ended_run = await harness.wait_until_ended(process, run)
    assert_exactly_once(harness, ended_run, in_flight)
    assert {step.id: step.attempts for step in ended_run.steps}["digest"] == 2
    assert len(harness.doubles.documents.put) == 1


async def test_a_process_stops_cleanly_and_its_runs_resume_after_a_restart(harness: CrashHarness) -> None:
    harness.doubles.calls.block("chat file-0")
    process = await harness.start_leader()
    run = await harness.start_run(process, 1)
    await harness.wait_for_call("chat file-0")
    process.send_signal(signal.SIGTERM)
    assert process.popen is not None
    assert await asyncio.to_thread(process.popen.wait, 30) == 0
    del harness.doubles.calls.gates["chat file-0"]
    process.start()
    ended_run = await harness.wait_until_ended(process, run)
    assert_exactly_once(harness, ended_run, in_flight={"summarise/0"})


async def test_the_standby_process_takes_over_when_the_leader_is_killed(harness: CrashHarness) -> None:
    release = harness.doubles.calls.block("chat file-0")
    first = await harness.start_leader()
    second = harness.new_process()
    second.start()

    async def is_standby() -> bool:
        return (await second.detail()).startswith("standby")

    await until(is_standby, "the standby process")
    run = await harness.start_run(second, 2)  # the standby accepts requests too
    await harness.wait_for_call("chat file-0")
    assert await first.is_leader() and not await second.is_leader()
    first.kill()
    release.set()
    assert_exactly_once(
        harness, await harness.wait_until_ended(second, run), in_flight={"summarise/0", "summarise/1", "ingest/1"}
    )
    assert await second.is_leader()
