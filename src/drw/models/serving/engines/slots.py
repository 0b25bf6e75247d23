"""Slots of a llama.cpp server: the prefix cache of a slot is reused only for the tenant that used it last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count

MIN_SHARED_PART = 0.1
"""A slot of the same tenant is preferred if it has at least this part of the prompt cached."""


class Slot:
    """One slot with the tenant and tokens of its cached prompt; an empty tenant: unknown."""

    __slots__ = ("id", "tenant", "tokens", "last_used")

    def __init__(self, id: int) -> None:
        self.id = id
        self.tenant = ""
        self.tokens: Sequence[int] = ()
        self.last_used = 0

    def shared_prefix(self, tokens: Sequence[int]) -> int:
        """Return the number of leading tokens that the cached prompt shares with this one."""
        for position, (cached, requested) in enumerate(zip(self.tokens, tokens, strict=False)):
            if cached != requested:
                return position
        return min(len(self.tokens), len(tokens))


class SlotLease:
    """The use of a slot by one request."""

    def __init__(self, slot: Slot, tenant: str, tokens: Sequence[int]) -> None:
        self.slot_id = slot.id
        self.reuse = slot.tenant == tenant
        """Whether the cached prompt belongs to this tenant and can be reused."""
        self._slot, self._tenant, self._tokens = slot, tenant, tokens
        if not self.reuse:
            # The server keeps the previous prompt if this request ends before its own prompt is processed.
            slot.tenant, slot.tokens = "", ()

    def prompt_read(self) -> None:
        """Record that the server has processed the prompt, which replaces the previous one in the slot."""
        self._slot.tenant, self._slot.tokens = self._tenant, self._tokens


class SlotPool:
    """Assigns a slot to each request."""

    def __init__(self, number: int) -> None:
        self._free = [Slot(id) for id in range(number)]
        self._available = asyncio.Semaphore(number)
        self._clock = count(1)

    @asynccontextmanager
    async def acquire(self, tenant: str, tokens: Sequence[int]) -> AsyncIterator[SlotLease]:
        """Wait for a slot and lease it for the block."""
        async with self._available:
            slot = self._choose_slot(tenant, tokens)
            self._free.remove(slot)
            try:
                yield SlotLease(slot, tenant, tokens)
            finally:
                slot.last_used = next(self._clock)
                self._free.append(slot)

    def _choose_slot(self, tenant: str, tokens: Sequence[int]) -> Slot:
        tenant_slots = [slot for slot in self._free if slot.tenant == tenant]
        if tenant_slots:
            best = max(tenant_slots, key=lambda slot: slot.shared_prefix(tokens))
            if best.shared_prefix(tokens) >= MIN_SHARED_PART * len(tokens):
                return best
        return min(self._free, key=lambda slot: slot.last_used)
