"""Fair semaphore: bounded slots, never all for one owner, released also after a cancellation."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from drw.rag.documents.parsing.fair_slots import FairSlots


class Holder:
    """A task that holds a slot until it is released."""

    def __init__(self, slots: FairSlots, owner: str) -> None:
        self.acquired_event = asyncio.Event()
        self.release_event = asyncio.Event()
        self.task = asyncio.create_task(self._hold(slots, owner))

    async def _hold(self, slots: FairSlots, owner: str) -> None:
        async with slots.acquired(owner):
            self.acquired_event.set()
            await self.release_event.wait()

    async def release(self) -> None:
        self.release_event.set()
        await self.task


async def run_pending_tasks() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_one_owner_never_holds_all_slots() -> None:
    slots = FairSlots(3)
    greedy = [Holder(slots, "a") for _ in range(10)]
    await run_pending_tasks()
    assert [holder.acquired_event.is_set() for holder in greedy].count(True) == 2
    other = Holder(slots, "b")
    await run_pending_tasks()
    assert other.acquired_event.is_set()
    for holder in (other, *greedy):
        await holder.release()


async def test_the_owner_with_fewer_slots_is_next() -> None:
    slots = FairSlots(2)
    first = Holder(slots, "a")
    await run_pending_tasks()
    second = Holder(slots, "b")
    waiting = [Holder(slots, "a"), Holder(slots, "c")]
    await run_pending_tasks()
    await second.release()
    await run_pending_tasks()
    assert [holder.acquired_event.is_set() for holder in waiting] == [False, True]
    for holder in (first, waiting[1], waiting[0]):
        await holder.release()


async def test_a_single_slot_serves_all_owners() -> None:
    slots = FairSlots(1)
    for owner in ("a", "a", "b"):
        holder = Holder(slots, owner)
        await run_pending_tasks()
        assert holder.acquired_event.is_set()
        await holder.release()


@pytest.mark.parametrize("waits", [True, False])
async def test_a_cancelled_owner_returns_its_slot(waits: bool) -> None:
    slots = FairSlots(1)
    async with AsyncExitStack() as stack:
        if waits:
            await stack.enter_async_context(slots.acquired("a"))
        cancelled = Holder(slots, "b")
        await run_pending_tasks()
        cancelled.task.cancel()
        await asyncio.gather(cancelled.task, return_exceptions=True)
    last = Holder(slots, "c")
    await run_pending_tasks()
    assert last.acquired_event.is_set()
    await last.release()
