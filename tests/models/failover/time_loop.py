"""An event loop whose time a test moves on, with real sockets: deadlines of minutes pass in no time.

It jumps only while somebody sleeps on the `DoubleClock`, which is never while an answer, the database or any
other real part is waited for; so a slow machine makes a test slow, and never wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from drw.kernel.runtime.clock import Clock

T = TypeVar("T")

STEP_SECONDS = 0.05


class TimeLoop(asyncio.SelectorEventLoop):
    """A loop whose time can be moved on."""

    shift = 0.0

    def time(self) -> float:
        return super().time() + self.shift


class DoubleClock(Clock):
    """The loop's time; knows whether anybody waits for it to pass."""

    sleepers = 0

    async def sleep(self, seconds: float) -> None:
        DoubleClock.sleepers += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            DoubleClock.sleepers -= 1


def passed() -> float:
    """Return the seconds by which the present loop's time was moved on."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, TimeLoop)
    return loop.shift


async def passing(work: Coroutine[Any, Any, T]) -> T:
    """Return what the work returns, while time passes as fast as it may."""
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


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run the work in a loop of its own."""
    DoubleClock.sleepers = 0
    with asyncio.Runner(loop_factory=TimeLoop) as runner:
        return runner.run(work)
