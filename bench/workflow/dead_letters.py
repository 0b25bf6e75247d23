"""Lists, groups and filters of 10,000 dead letters, the time until a failure is listed, and a redrive of 200 runs.

`python -m bench.workflow.dead_letters`. The workflow services run in this process, with a model and files in memory.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from drw.api.workflow.v1.error_handling_pb2 import DeadLetterFilter, ListDeadLetterGroupsRequest
from drw.api.workflow.v1.orchestration_pb2 import RETRYING
from drw.kernel.errors import InvalidRequest, RateLimited
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from drw.kernel.runtime.settings import Profile
from support.parts import new_database, running_postgres, running_valkey, short_folder
from workflow.dead_letters import (
    client,
    dead_letter_harness,
    failed_runs,
    insert_letters,
    letters,
    redrive,
    wait_until_redriven,
)
from workflow.doubles import until
from workflow.harness import FAST_SETTINGS, WorkflowHarness, step_is

LETTERS = 10_000
GROUPS = 40
ROUNDS = 50
REDRIVEN = 200
CALLER = Principal("acme", "research", "key_test", frozenset(SCOPES), frozenset())


async def _median_ms(call: Callable[[], Awaitable[object]]) -> float:
    durations = []
    for _ in range(ROUNDS):
        started_at = time.perf_counter()
        await call()
        durations.append(time.perf_counter() - started_at)
    return statistics.median(durations) * 1000


async def _lists(harness: WorkflowHarness) -> None:
    insert_letters(harness.profile, LETTERS, GROUPS)

    async def groups() -> None:
        with acting_for(harness.caller):
            await client(harness).list_dead_letter_groups(ListDeadLetterGroupsRequest())

    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "newest 50": lambda: letters(harness),
        "newest 500": lambda: letters(harness, page_size=500),
        "50 of a group": lambda: letters(harness, group="group7"),
        "by a part of the error": lambda: letters(harness, error="file 77 has"),
        "groups": groups,
        "dry run of all": lambda: redrive(harness, DeadLetterFilter(template="digest"), dry_run=True),
    }
    for name, call in calls.items():
        print(f"{name:<26}{await _median_ms(call):8.1f} ms of {LETTERS:,} dead letters")


async def _latencies(harness: WorkflowHarness) -> None:
    durations = []
    for _ in range(20):
        harness.calls.failures["index file-0"] = [InvalidRequest("no pages")]
        run = await harness.start(["file-0"])
        ended = await harness.wait_until_ended(run)

        async def is_listed(run: str = run.id) -> bool:
            return (await letters(harness, page_size=1))[0].run == run

        await until(is_listed, "the dead letter")
        durations.append(time.time() - ended.ended_at.ToMicroseconds() / 1e6)
    print(f"failure to dead letter    {max(durations) * 1000:8.0f} ms at most in 20 runs")
    harness.calls.failures["index file-0"] = [RateLimited("later", retry_after="600")]
    run = await harness.start(["file-0"])
    await until(lambda: step_is(harness, run, "ingest/0", RETRYING), "the back-off")
    started_at = time.perf_counter()
    await harness.cancel(run)

    async def is_idle() -> bool:
        return "0 active runs" in {s.name: s.detail for s in (await harness.host.status()).services}["orchestration"]

    await until(is_idle, "the end of the run")
    print(f"cancel during back-off    {(time.perf_counter() - started_at) * 1000:8.0f} ms")


async def _redrive(harness: WorkflowHarness) -> None:
    failed = await failed_runs(harness, REDRIVEN)
    started_at = time.perf_counter()
    started = await redrive(harness, DeadLetterFilter(group=failed[0].group))
    ended = await wait_until_redriven(harness, started)
    seconds = time.perf_counter() - started_at
    print(f"redrive                   {ended.started / seconds:8.1f} runs/s at a rate of 100/s, {ended.started} runs")


async def main() -> None:
    """Measure, and print the results."""
    logging.disable(logging.ERROR)
    orchestration = {"orchestration": FAST_SETTINGS["orchestration"] | {"max_open_runs": 1000}}
    with short_folder() as folder, TemporaryDirectory() as data, running_postgres(folder) as postgres:
        for number, measure in enumerate((_lists, _latencies, _redrive)):
            with running_valkey(folder / f"v{number}") as valkey:
                profile = Profile(name="bench", data=Path(data), postgres=new_database(postgres), valkey=valkey)
                async with dead_letter_harness(profile, folder, CALLER, more=orchestration) as harness:
                    await measure(harness)


if __name__ == "__main__":
    asyncio.run(main())
