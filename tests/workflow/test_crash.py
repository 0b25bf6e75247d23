"""The workflow process is killed in the middle: the run finishes, and no finished step runs twice."""

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
from workflow.doubles import Doubles, doubled, until

_numbers = itertools.count()

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
services = ["documents", "serving"]
grpc = "{doubles}"
http = "{doubles}.h"

[processes.gateway]
services = ["request_router"]
grpc = "{doubles}.k"
http = ""

[services.orchestration]
first_pause_seconds = 0.05
"""


@dataclass
class Process:
    """One workflow process of the profile, which can be killed and started again."""

    profile: Path
    address: str
    log: Path
    channels: Channels
    popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as out:
            command = [sys.executable, "-m", "drw.kernel.runtime.process", "workflow", str(self.profile)]
            self.popen = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)

    def end(self, number: int) -> None:
        assert self.popen is not None
        os.kill(self.popen.pid, number)

    def kill(self) -> None:
        self.end(signal.SIGKILL)
        assert self.popen is not None
        assert self.popen.wait(30) == -signal.SIGKILL
        self.popen = None

    async def detail(self) -> str:
        """What orchestration says of itself; empty while the process does not answer."""
        with suppress(Unavailable):
            status = await self.channels.client(ProcessClient, self.address).get_status(GetStatusRequest())
            return {s.name: s.detail for s in status.services}["orchestration"]
        return ""

    async def leads(self) -> bool:
        return (await self.detail()).startswith("carries out runs")


@dataclass
class World:
    """Doubles in this process, workflow processes beside it."""

    profile: Profile
    folder: Path
    doubles: Doubles
    caller: Principal
    channels: Channels = field(default_factory=Channels)
    processes: list[Process] = field(default_factory=list)

    def process(self) -> Process:
        base = self.folder / f"w{next(_numbers)}"
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
        made = Process(file, f"unix:{base}", base.with_suffix(".log"), self.channels)
        self.processes.append(made)
        return made

    async def started(self) -> Process:
        process = self.process()
        process.start()
        await until(process.leads, "the lead")
        return process

    async def run(self, process: Process, files: int) -> Run:
        request = StartRunRequest(template="digest", request_id=f"r{next(_numbers)}")
        request.inputs.CopyFrom(json_message({"files": [f"file-{i}" for i in range(files)]}))
        with acting_for(self.caller):
            return await self.channels.client(OrchestrationClient, process.address).start_run(request)

    async def get(self, process: Process, run: Run) -> Run:
        with acting_for(self.caller):
            client = self.channels.client(OrchestrationClient, process.address)
            return await client.get_run(GetRunRequest(run=run.id))

    async def ended(self, process: Process, run: Run) -> Run:
        async def over() -> bool:
            with suppress(Unavailable):
                return (await self.get(process, run)).ended_at.seconds > 0
            return False

        await until(over, f"the end of {run.id}")
        return await self.get(process, run)

    def finished(self, run: Run) -> set[str]:
        """The steps that have ended well, from the table."""
        with psycopg.connect(self.profile.postgres) as connection:
            query = "select id from orchestration.step where run = %s and state = 'SUCCEEDED'"
            return {row[0] for row in connection.execute(query, (run.id,))}

    def records(self, action: str) -> list[str]:
        """What the records of an action are about."""
        with psycopg.connect(self.profile.postgres) as connection:
            rows = connection.execute("select record::text from audit.inbox").fetchall()
        return [r["resource"] for r in (orjson.loads(row[0]) for row in rows) if r["action"] == action]

    async def events(self, process: Process, run: Run) -> list[tuple[int, str, str]]:
        with acting_for(self.caller):
            stream = self.channels.client(StateClient, process.address).watch_run(WatchRunRequest(run=run.id))
            return [(int(e.event_id), e.step, e.state) async for e in stream if e.event_id]

    def made(self, name: str) -> int:
        return self.doubles.calls.made.count(name)

    async def called(self, name: str, times: int = 1) -> None:
        async def enough() -> bool:
            return self.made(name) >= times

        await until(enough, f"{name!r} for the {times}. time")


@asynccontextmanager
async def _world(profile, folder, caller):
    with redis.Redis.from_url(profile.valkey) as valkey:
        valkey.flushdb()
    async with doubled(profile, folder / f"d{next(_numbers)}") as doubles:
        world = World(profile, folder, doubles, caller)
        try:
            yield world
        finally:
            for process in world.processes:
                if process.popen:
                    process.popen.kill()
                    process.popen.wait()
            await world.channels.close()


@pytest.fixture
async def world(profile: Profile, folder: Path, caller: Principal) -> AsyncIterator[World]:
    async with _world(profile, folder, caller) as found:
        yield found


def assert_right(world: World, run: Run, in_flight: set[str]) -> None:
    """Everything ended well, once; only what was under way at a kill was begun again."""
    assert run.state == SUCCEEDED, run.error
    attempts = {step.id: step.attempts for step in run.steps}
    again = {step for step, count in attempts.items() if count > 1}
    assert again <= in_flight
    for step in attempts.keys() - in_flight:
        assert attempts[step] == 1
    begun = Counter(world.records("step.begin"))
    assert begun == {f"{run.id}/{step}": count for step, count in attempts.items()}
    assert Counter(world.records("step.end")) == {f"{run.id}/{step}": 1 for step in attempts}
    assert world.records("run.end") == world.records("run.start") == [run.id]


async def test_a_killed_process_goes_on_where_it_stood(world: World) -> None:
    release = world.doubles.calls.hold("chat file-2")
    process = await world.started()
    run = await world.run(process, 5)
    await world.called("chat file-2")

    async def rest() -> bool:
        return len(world.finished(run)) == 9  # all but summarise/2 and digest

    await until(rest, "all that can end")
    finished = world.finished(run)
    before = Counter(world.doubles.calls.made)
    process.kill()
    release.set()
    process.start()
    found = await world.ended(process, run)
    assert_right(world, found, in_flight={"summarise/2"})
    after = Counter(world.doubles.calls.made) - before
    assert after == {"read file-2": 1, "chat file-2": 1, f"put digest-{run.id}.md": 1}
    assert world.finished(run) - finished == {"summarise/2", "digest"}
    text = json_value(found.output)["text"]
    assert [f"Text of file-{i}" in text for i in range(5)] == [True] * 5
    events = await world.events(process, run)
    assert [number for number, _, _ in events] == list(range(1, len(events) + 1))
    assert events[-1][1:] == ("", "succeeded")
    assert Counter(step for _, step, state in events if state == "succeeded") == {s.id: 1 for s in found.steps} | {
        "": 1
    }


async def test_killed_again_and_again_it_ends_all_the_same(world: World) -> None:
    process = await world.started()
    held = {name: world.doubles.calls.hold(name) for name in ("index file-3", "chat file-1")}
    run = await world.run(process, 4)
    put = f"put digest-{run.id}.md"
    held[put] = world.doubles.calls.hold(put)
    await world.called("chat file-1")
    for kills, name in enumerate(held):
        # "chat file-1" is under way at both of the first two kills.
        await world.called(name, 2 if name == "chat file-1" else 1)
        finished = world.finished(run)
        process.kill()
        assert world.finished(run) >= finished and len(world.records("run.end")) == 0, f"after {kills} kills"
        held[name].set()
        process.start()
    found = await world.ended(process, run)
    assert_right(world, found, in_flight={"ingest/3", "summarise/1", "digest"} | {f"summarise/{i}" for i in (0, 2, 3)})
    assert {step.id: step.attempts for step in found.steps}["digest"] == 2
    assert len(world.doubles.documents.put) == 1


async def test_a_stopped_process_ends_cleanly_and_its_runs_go_on_later(world: World) -> None:
    world.doubles.calls.hold("chat file-0")
    process = await world.started()
    run = await world.run(process, 1)
    await world.called("chat file-0")
    process.end(signal.SIGTERM)
    assert process.popen is not None
    assert await asyncio.to_thread(process.popen.wait, 30) == 0
    del world.doubles.calls.held["chat file-0"]
    process.start()
    found = await world.ended(process, run)
    assert_right(world, found, in_flight={"summarise/0"})


async def test_of_two_processes_one_works_and_the_other_takes_over(world: World) -> None:
    release = world.doubles.calls.hold("chat file-0")
    first = await world.started()
    second = world.process()
    second.start()

    async def stands_by() -> bool:
        return (await second.detail()).startswith("stands by")

    await until(stands_by, "the second process")
    run = await world.run(second, 2)  # any of them takes requests
    await world.called("chat file-0")
    assert await first.leads() and not await second.leads()
    first.kill()
    release.set()
    assert_right(world, await world.ended(second, run), in_flight={"summarise/0", "summarise/1", "ingest/1"})
    assert await second.leads()
