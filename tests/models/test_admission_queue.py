"""Admission of background requests: at most half of the slots, and behind all interactive requests."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from drw.models.serving.errors import EngineBusy
from drw.models.serving.routing.admission_queue import AdmissionQueue


class Visits:
    """Requests in a queue, which stay until `leave`."""

    def __init__(self, queue: AdmissionQueue) -> None:
        self._queue = queue
        self.inside: list[str] = []
        self._doors: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def enter(self, name: str, *, background: bool = False) -> None:
        """Start a request, and let it go as far as it can."""
        self._doors[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._visit(name, background=background))
        await self._settle()

    async def leave(self, name: str) -> None:
        """End a request, inside or waiting."""
        if name in self.inside:
            self._doors[name].set()
        else:
            self._tasks[name].cancel()
        await asyncio.gather(self._tasks[name], return_exceptions=True)
        await self._settle()

    async def _visit(self, name: str, *, background: bool) -> None:
        async with self._queue.admit(background=background):
            self.inside.append(name)
            try:
                await self._doors[name].wait()
            finally:
                self.inside.remove(name)

    async def _settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)


async def test_background_requests_take_at_most_half_of_the_slots() -> None:
    visits = Visits(AdmissionQueue("m", 4, 10, 60))
    for number in range(3):
        await visits.enter(f"b{number}", background=True)
    assert visits.inside == ["b0", "b1"]
    await visits.enter("i0")
    await visits.enter("i1")
    assert visits.inside == ["b0", "b1", "i0", "i1"]
    await visits.leave("b0")
    assert visits.inside == ["b1", "i0", "i1", "b2"]
    for name in list(visits.inside):
        await visits.leave(name)
    assert visits.inside == []


async def test_interactive_requests_pass_background_requests_that_wait() -> None:
    visits = Visits(AdmissionQueue("m", 1, 10, 60))
    await visits.enter("first")
    await visits.enter("background", background=True)
    await visits.enter("interactive")
    await visits.leave("first")
    assert visits.inside == ["interactive"]
    await visits.leave("interactive")
    assert visits.inside == ["background"]
    await visits.leave("background")


async def test_a_request_that_stops_waiting_leaves_its_place_to_the_next() -> None:
    visits = Visits(AdmissionQueue("m", 1, 10, 60))
    await visits.enter("first")
    await visits.enter("gone")
    await visits.enter("background", background=True)
    await visits.leave("gone")
    await visits.leave("first")
    assert visits.inside == ["background"]
    await visits.enter("next")
    await visits.leave("background")
    assert visits.inside == ["next"]
    await visits.leave("next")


async def test_a_cancellation_at_the_moment_of_admission_frees_the_slot() -> None:
    queue = AdmissionQueue("m", 1, 10, 60)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(queue.admit())
        waiting = asyncio.create_task(stack.enter_async_context(queue.admit()))
        await asyncio.sleep(0)
        await stack.aclose()  # admits it
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    async with queue.admit(0.1):
        pass


async def test_full_queues_and_long_waits_are_refused() -> None:
    queue = AdmissionQueue("m", 1, 1, 60)
    async with queue.admit():
        with pytest.raises(EngineBusy, match="within"):
            async with queue.admit(0.001):
                pass
        waiting = asyncio.create_task(queue.admit().__aenter__())
        await asyncio.sleep(0)
        with pytest.raises(EngineBusy, match="wait for it already"):
            async with queue.admit():
                pass
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
