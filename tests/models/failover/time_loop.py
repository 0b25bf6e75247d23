"""Event loop with simulated time and real sockets: deadlines of minutes pass immediately.

Time advances only while a task sleeps on the `DoubleClock`, never while one waits for a response, the database or
another real dependency. A slow machine therefore makes a test slow, but not wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from drw.kernel.runtime.clock import Clock

T = TypeVar("T")

STEP_SECONDS = 0.05


class TimeLoop(asyncio.SelectorEventLoop):
    """An event loop with an adjustable offset of its time."""

    shift = 0.0

    def time(self) -> float:
        return super().time() + self.shift


class DoubleClock(Clock):
    """The loop's time; counts the tasks that sleep on it."""

    sleepers = 0

    async def sleep(self, seconds: float) -> None:
        DoubleClock.sleepers += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            DoubleClock.sleepers -= 1


def passed() -> float:
    """Return the seconds by which the time of the running loop was advanced."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, TimeLoop)
    return loop.shift


async def passing(work: Coroutine[object, None, T]) -> T:
    """Run a coroutine while the simulated time advances; return its result."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, TimeLoop)
    try:
        while not task.done():
            if DoubleClock.sleepers:
                loop.shift += STEP_SECONDS
                await asyncio.sleep(0)
            else:
                await asyncio.wait({task}, timeout=0.002)
        return task.result()
    finally:
        task.cancel()


def run(work: Coroutine[object, None, T]) -> T:
    """Run a coroutine in a new loop."""
    DoubleClock.sleepers = 0
    with asyncio.Runner(loop_factory=TimeLoop) as runner:
        return runner.run(work)
