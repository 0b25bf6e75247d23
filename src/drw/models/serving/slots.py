"""Slots of a llama.cpp server: each keeps the prompt it has read, for whoever used it last and for nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count

WORTHWHILE = 0.1
"""Of a prompt, at least this part must be there already for its tenant's slot to be taken again."""


class Slot:
    """One slot: whose prompt it holds, and which."""

    __slots__ = ("id", "tenant", "tokens", "used")

    def __init__(self, id: int) -> None:
        self.id = id
        self.tenant = ""
        self.tokens: Sequence[int] = ()
        self.used = 0

    def shared(self, tokens: Sequence[int]) -> int:
        """Return how many tokens of a prompt it begins with."""
        for position, (mine, wanted) in enumerate(zip(self.tokens, tokens, strict=False)):
            if mine != wanted:
                return position
        return min(len(self.tokens), len(tokens))


class Slots:
    """Gives each request a slot, which is its own until the block ends."""

    def __init__(self, number: int) -> None:
        self._free = [Slot(id) for id in range(number)]
        self._turns = asyncio.Semaphore(number)
        self._clock = count(1)

    @asynccontextmanager
    async def turn(self, tenant: str, tokens: Sequence[int]) -> AsyncIterator[tuple[int, bool]]:
        """Wait for a slot; give its number, and whether what it holds is this tenant's and may be used."""
        async with self._turns:
            slot = self._best(tenant, tokens)
            self._free.remove(slot)
            reuse = slot.tenant == tenant
            slot.tenant, slot.tokens = tenant, tokens
            try:
                yield slot.id, reuse
            finally:
                slot.used = next(self._clock)
                self._free.append(slot)

    def _best(self, tenant: str, tokens: Sequence[int]) -> Slot:
        own = [slot for slot in self._free if slot.tenant == tenant]
        if own:
            best = max(own, key=lambda slot: slot.shared(tokens))
            if best.shared(tokens) >= WORTHWHILE * len(tokens):
                return best
        return min(self._free, key=lambda slot: slot.used)
