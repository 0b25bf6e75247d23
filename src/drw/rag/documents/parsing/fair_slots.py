"""Fair semaphore: a bounded number of slots, shared between owners."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairSlots:
    """Slots for owners. The next one goes to the owner with the fewest, then to the one who waits longest.

    One owner holds at most all slots but one, unless there is only one: another never waits for a single owner.
    """

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._max_held = max(1, slots - 1)
        self._held: Counter[str] = Counter()
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def held(self, owner: str) -> AsyncIterator[None]:
        """Hold a slot for the block, once there is one for the owner."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((owner, turn))
        self._give()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._free += 1
                self._held -= Counter([owner])
            else:
                self._waiting.remove((owner, turn))
            self._give()

    def _give(self) -> None:
        while self._free:
            able = [(owner, turn) for owner, turn in self._waiting if self._may(owner) and not turn.cancelled()]
            if not able:
                return
            owner, turn = min(able, key=lambda waiting: self._held[waiting[0]])  # of equals the first
            self._waiting.remove((owner, turn))
            self._free -= 1
            self._held[owner] += 1
            turn.set_result(None)

    def _may(self, owner: str) -> bool:
        return self._held[owner] < self._max_held
