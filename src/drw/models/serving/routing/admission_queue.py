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

    @asynccontextmanager
    async def admit_probe(self) -> AsyncIterator[bool]:
        """Yield whether a probe is admitted: only if a slot is free and no request waits. It never waits itself."""
        if self._slots.locked() or self._waiting:
            yield False
            return
        async with self._slots:  # does not suspend while a slot is free
            yield True

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
        try:
            yield
        finally:
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
