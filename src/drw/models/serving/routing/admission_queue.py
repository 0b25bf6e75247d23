"""Admission queue of one model: bounds concurrent and waiting requests, and rejects the rest."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from drw.kernel.observability.overhead import waiting
from drw.models.serving.errors import EngineBusy


class AdmissionQueue:
    """Admits requests to one model."""

    def __init__(self, model: str, concurrent: int, waiting: int, seconds: float) -> None:
        self._model = model
        self._slots = asyncio.Semaphore(concurrent)
        self._max_waiting = waiting
        self._seconds = seconds
        self._waiting = 0
        self._concurrent = concurrent
        self._running = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and at most half of the slots are taken: a call of low priority disturbs nobody."""
        return not self._waiting and not self._slots.locked() and self._running <= self._concurrent // 2

    @asynccontextmanager
    async def admit(self, max_seconds: float = math.inf) -> AsyncIterator[None]:
        """Wait for admission, at most `max_seconds`; the slot is released after the block.

        Raises:
            EngineBusy: the queue is full, or the wait took too long.
        """
        if self._slots.locked():
            await self._wait(min(self._seconds, max_seconds))
        else:
            await self._slots.acquire()
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._slots.release()

    async def _wait(self, seconds: float) -> None:
        if self._waiting >= self._max_waiting:
            raise self._busy(f"{self._waiting} requests wait for it already")
        self._waiting += 1
        try:
            with waiting("queue"):
                async with asyncio.timeout(seconds):
                    await self._slots.acquire()
        except TimeoutError:
            raise self._busy(f"no request finished within {seconds:.3g} s") from None
        finally:
            self._waiting -= 1

    def _busy(self, reason: str) -> EngineBusy:
        message = f"the model {self._model!r} is busy: {reason}; try again"
        return EngineBusy(message, code="model_overloaded", retry_after="1")
