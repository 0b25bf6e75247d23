"""Admission queue of one model: bounds concurrent and waiting requests, and rejects the rest.

Background requests, such as those of batches, take at most half of the slots, and only while no interactive request
waits.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from drw.kernel.observability.overhead import waiting
from drw.models.serving.errors import EngineBusy

Waiter = asyncio.Future[None]


class AdmissionQueue:
    """Admits requests to one model, in the order of their arrival."""

    def __init__(self, model: str, concurrent: int, waiting: int, seconds: float) -> None:
        self._model = model
        self._free = concurrent
        self._background_free = max(1, concurrent // 2)
        self._max_waiting = waiting
        self._seconds = seconds
        self._waiters: deque[Waiter] = deque()
        self._background_waiters: deque[Waiter] = deque()

    @asynccontextmanager
    async def admit_probe(self) -> AsyncIterator[bool]:
        """Yield whether a probe is admitted: only if a slot is free and no request waits. It never waits itself."""
        if not self._can_enter(background=False):
            yield False
            return
        self._take(background=False)
        try:
            yield True
        finally:
            self._release(background=False)

    @asynccontextmanager
    async def admit(self, max_seconds: float = math.inf, *, background: bool = False) -> AsyncIterator[None]:
        """Wait for admission, at most `max_seconds`; the slot is released after the block.

        Raises:
            EngineBusy: the queue is full, or the wait took too long.
        """
        if self._can_enter(background=background):
            self._take(background=background)
        else:
            await self._wait(min(self._seconds, max_seconds), background=background)
        try:
            yield
        finally:
            self._release(background=background)

    def _can_enter(self, *, background: bool) -> bool:
        if self._free <= 0 or self._waiters:
            return False
        return not background or (self._background_free > 0 and not self._background_waiters)

    def _take(self, *, background: bool) -> None:
        self._free -= 1
        self._background_free -= background

    def _release(self, *, background: bool) -> None:
        self._free += 1
        self._background_free += background
        self._admit_waiters()

    def _admit_waiters(self) -> None:
        """Give free slots to waiting requests: first to all interactive ones."""
        while self._free > 0 and self._waiters:
            self._take(background=False)
            self._waiters.popleft().set_result(None)
        while self._free > 0 and self._background_free > 0 and self._background_waiters:
            self._take(background=True)
            self._background_waiters.popleft().set_result(None)

    async def _wait(self, seconds: float, *, background: bool) -> None:
        queue = self._background_waiters if background else self._waiters
        if len(queue) >= self._max_waiting:
            raise self._busy(f"{len(queue)} requests wait for it already")
        waiter: Waiter = asyncio.get_running_loop().create_future()
        queue.append(waiter)
        try:
            with waiting("queue"):
                async with asyncio.timeout(seconds):
                    await asyncio.shield(waiter)
        except BaseException as error:
            if waiter.done():  # admitted at the same moment
                self._release(background=background)
            else:
                queue.remove(waiter)
                self._admit_waiters()  # a background request may have waited behind this one
            if isinstance(error, TimeoutError):
                raise self._busy(f"no request finished within {seconds:.3g} s") from None
            raise

    def _busy(self, reason: str) -> EngineBusy:
        message = f"the model {self._model!r} is busy: {reason}; try again"
        return EngineBusy(message, code="model_overloaded", retry_after="1")
