"""A bounded number of slots for many owners, of which no owner can hold all."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairSlots:
    """Slots that owners hold for a while; whoever has fewer gets the next one, then whoever waits longest.

    An owner holds at most all but one, unless there is one only, so that another never waits for a single owner.
    """

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._most = max(1, slots - 1)
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
        return self._held[owner] < self._most
