"""Slots of a llama.cpp server: each keeps the prompt it has read, for whoever used it last and for nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count

WORTHWHILE = 0.1
"""Of a prompt, at least this part must be there already for its tenant's slot to be taken again."""


class Slot:
    """One slot: whose prompt it holds, and which; an empty tenant: nobody knows."""

    __slots__ = ("id", "tenant", "tokens", "used")

    def __init__(self, id: int) -> None:
        self.id = id
        self.tenant = ""
        self.tokens: Sequence[int] = ()
        self.used = 0

    def shared(self, tokens: Sequence[int]) -> int:
        """Return how many tokens of a prompt it begins with."""
        for position, (mine, requested) in enumerate(zip(self.tokens, tokens, strict=False)):
            if mine != requested:
                return position
        return min(len(self.tokens), len(tokens))


class Turn:
    """One request's turn at a slot."""

    def __init__(self, slot: Slot, tenant: str, tokens: Sequence[int]) -> None:
        self.slot = slot.id
        self.reuse = slot.tenant == tenant
        """Whether what the slot holds is this tenant's and may be used."""
        self._held, self._tenant, self._tokens = slot, tenant, tokens
        if not self.reuse:
            # It still holds the prompt of who had it before, and keeps it should this request end unread.
            slot.tenant, slot.tokens = "", ()

    def read(self) -> None:
        """Take note that the server has read the prompt: the slot holds it, and nothing from before."""
        self._held.tenant, self._held.tokens = self._tenant, self._tokens


class Slots:
    """Gives each request a slot, which is its own until the block ends."""

    def __init__(self, number: int) -> None:
        self._free = [Slot(id) for id in range(number)]
        self._turns = asyncio.Semaphore(number)
        self._clock = count(1)

    @asynccontextmanager
    async def turn(self, tenant: str, tokens: Sequence[int]) -> AsyncIterator[Turn]:
        """Wait for a slot, and give a turn at it."""
        async with self._turns:
            slot = self._best(tenant, tokens)
            self._free.remove(slot)
            try:
                yield Turn(slot, tenant, tokens)
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
