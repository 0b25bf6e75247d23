"""Fair semaphore: a bounded number of slots, shared between owners."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairSlots:
    """A semaphore that grants a free slot to the waiting owner with the fewest slots, then to the longest waiting.

    With several slots, one owner never holds all of them: another owner does not wait for it.
    """

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._max_per_owner = max(1, slots - 1)
        self._slots_by_owner: Counter[str] = Counter()
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def acquired(self, owner: str) -> AsyncIterator[None]:
        """Wait for a slot, and hold it for the block."""
        grant = asyncio.get_running_loop().create_future()
        self._waiting.append((owner, grant))
        self._grant()
        try:
            await grant
            yield
        finally:
            if grant.done() and not grant.cancelled():
                self._free += 1
                self._slots_by_owner -= Counter([owner])
            else:
                self._waiting.remove((owner, grant))
            self._grant()

    def _grant(self) -> None:
        while self._free:
            eligible = [
                (owner, grant)
                for owner, grant in self._waiting
                if self._slots_by_owner[owner] < self._max_per_owner and not grant.cancelled()
            ]
            if not eligible:
                return
            owner, grant = min(
                eligible, key=lambda waiting: self._slots_by_owner[waiting[0]]
            )  # the longest waiting of equals
            self._waiting.remove((owner, grant))
            self._free -= 1
            self._slots_by_owner[owner] += 1
            grant.set_result(None)
