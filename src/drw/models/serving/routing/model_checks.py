"""Which chat models can be reached, for the status: asked of every upstream, and not more often than need be."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from drw.kernel.errors import DrwError, Forbidden
from drw.kernel.runtime.clock import Clock
from drw.models.serving.routing.candidates import ChatModel
from drw.models.serving.routing.model_directory import ModelDirectory

ALIAS = "alias"
"""What discovery calls the engine of a name that stands for models."""
REMEMBER_SECONDS = 5.0
"""Anybody with a key may ask for the status, and no upstream is asked each time."""


class ModelChecks:
    """Asks the upstreams of models, and remembers what came of it for a moment."""

    def __init__(self, models: ModelDirectory, clock: Clock) -> None:
        self._models = models
        self._clock = clock
        self._until = 0.0
        self._names: tuple[str, ...] = ()
        self._faults: list[str] = []
        self._turn = asyncio.Lock()

    async def faults(self, names: Sequence[str]) -> list[str]:
        """Return why models cannot answer, a line for each that has no place that does."""
        async with self._turn:
            if self._clock.time() >= self._until or self._names != tuple(names):
                faults = await asyncio.gather(*map(self._fault, names))
                self._faults = [fault for fault in faults if fault]
                self._names, self._until = tuple(names), self._clock.time() + REMEMBER_SECONDS
            return self._faults

    async def _fault(self, name: str) -> str:
        try:
            await _check((await self._models.plan(name)).targets[0][0])
        except Forbidden:  # a kill switch stops it: that is no fault
            return ""
        except DrwError as error:
            return error.message
        return ""


async def _check(model: ChatModel) -> None:
    """Raise where a model answers nowhere."""
    results = await asyncio.gather(*(model.engine.check(r.target) for r in model.replicas), return_exceptions=True)
    errors = [error for error in results if error is not None]
    if len(errors) == len(results):
        raise errors[0]
