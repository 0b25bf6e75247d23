"""Drives one workflow engine by commands on standard input: `{"runs": 200, "steps": 3, "at_once": 50}`.

The answer has the seconds until all runs were started, and until all have ended. It imports the standard library only,
since it also runs in the environments of other engines.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

StartRun = Callable[[int], Awaitable[Awaitable[object]]]
"""Starts a run with a number of steps; returns what waits for its end."""


async def drive(start_run: StartRun) -> None:
    """Execute commands until standard input ends."""
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        print(json.dumps(await measure(start_run, **command)), flush=True)


async def measure(start_run: StartRun, runs: int, steps: int, at_once: int) -> dict[str, float]:
    """Start runs, at most `at_once` at the same time, and wait until all have ended.

    Returns the seconds until all were started and have ended. For one at a time: also the median duration of a run.
    """
    started_at, remaining, pending, durations = time.perf_counter(), iter(range(runs)), [], [0.0]

    async def work() -> None:
        for _ in remaining:
            began_at = time.perf_counter()
            ended = await start_run(steps)
            if at_once == 1:
                await ended
                durations.append(time.perf_counter() - began_at)
            else:
                pending.append(ended)

    await asyncio.gather(*(work() for _ in range(at_once)))
    started = time.perf_counter() - started_at
    await asyncio.gather(*pending)
    ended_after = time.perf_counter() - started_at
    return {"started": started, "ended": ended_after, "median": statistics.median(durations[1:] or durations)}
