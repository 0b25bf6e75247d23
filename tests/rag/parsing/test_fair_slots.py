"""Slots that many share: bounded, never all of one owner, and given back on every way out."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from drw.rag.documents.parsing.fair_slots import FairSlots


class Holder:
    """A task that holds a slot until it is let go."""

    def __init__(self, slots, owner):
        self.has = asyncio.Event()
        self.go = asyncio.Event()
        self.task = asyncio.create_task(self._hold(slots, owner))

    async def _hold(self, slots, owner):
        async with slots.held(owner):
            self.has.set()
            await self.go.wait()

    async def end(self):
        self.go.set()
        await self.task


async def settled():
    for _ in range(10):
        await asyncio.sleep(0)


async def test_one_owner_never_holds_all() -> None:
    slots = FairSlots(3)
    greedy = [Holder(slots, "a") for _ in range(10)]
    await settled()
    assert [holder.has.is_set() for holder in greedy].count(True) == 2
    other = Holder(slots, "b")
    await settled()
    assert other.has.is_set()
    for holder in (other, *greedy):
        await holder.end()


async def test_whoever_holds_fewer_is_next() -> None:
    slots = FairSlots(2)
    first = Holder(slots, "a")
    await settled()
    second = Holder(slots, "b")
    waiting = [Holder(slots, "a"), Holder(slots, "c")]
    await settled()
    await second.end()
    await settled()
    assert [holder.has.is_set() for holder in waiting] == [False, True]
    for holder in (first, waiting[1], waiting[0]):
        await holder.end()


async def test_a_single_slot_serves_everybody() -> None:
    slots = FairSlots(1)
    for owner in ("a", "a", "b"):
        holder = Holder(slots, owner)
        await settled()
        assert holder.has.is_set()
        await holder.end()


@pytest.mark.parametrize("waits", [True, False])
async def test_a_cancelled_owner_returns_its_slot(waits: bool) -> None:
    slots = FairSlots(1)
    async with AsyncExitStack() as stack:
        if waits:
            await stack.enter_async_context(slots.held("a"))
        gone = Holder(slots, "b")
        await settled()
        gone.task.cancel()
        await asyncio.gather(gone.task, return_exceptions=True)
    last = Holder(slots, "c")
    await settled()
    assert last.has.is_set()
    await last.end()
