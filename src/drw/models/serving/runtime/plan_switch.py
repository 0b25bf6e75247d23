"""Switch of a plan to models that are not loaded: the old plan stays until the new models are warm."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Sequence

from drw.kernel.errors import DrwError
from drw.kernel.runtime.clock import Clock
from drw.models.serving.ports import ModelSpec
from drw.models.serving.runtime.pool import ModelPool

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


class PlanSwitch:
    """Decides when a changed plan may be used. No request waits for the load, or fails because of it."""

    def __init__(self, pool: ModelPool, clock: Clock, seconds: float) -> None:
        self._pool = pool
        self._clock = clock
        self._seconds = seconds
        self._pending: dict[Hashable, tuple[tuple[ModelSpec, ...], float]] = {}
        self._loads: dict[Hashable, asyncio.Task[None]] = {}

    def may_use(self, name: Hashable, specs: Sequence[ModelSpec], old: Sequence[ModelSpec]) -> bool:
        """Return whether a new plan with these models may replace the old one; if not, start to load them.

        True if all models are loaded, or after the maximum wait: a change must take effect even if a load fails, or
        there is no memory for them beside the models of the old plan, which are not unloaded before.
        """
        missing = tuple(spec for spec in specs if not self._pool.ready(spec))
        if not missing:
            self._pending.pop(name, None)
            return True
        pending = self._pending.get(name)
        if pending is None or pending[0] != tuple(specs):
            pending = tuple(specs), self._clock.time()
            self._pending[name] = pending
        if self._clock.time() - pending[1] >= self._seconds:
            del self._pending[name]
            return True
        if (task := self._loads.get(name)) is None or task.done():
            self._loads[name] = asyncio.create_task(self._load(name, missing, old))
        return False

    async def close(self) -> None:
        """Stop all loads."""
        for task in self._loads.values():
            task.cancel()
        await asyncio.gather(*self._loads.values(), return_exceptions=True)

    async def _load(self, name: Hashable, specs: Sequence[ModelSpec], old: Sequence[ModelSpec]) -> None:
        for spec in specs:
            try:
                async with self._pool.lease(spec, keep=old):
                    pass
            except DrwError as error:
                log.warning("the old plan of %r stays for now: %s", name, error.message)
                await asyncio.sleep(RETRY_SECONDS)
        if self._loads.get(name) is asyncio.current_task():
            del self._loads[name]
