"""Readiness of the services of a process: bounded checks of the dependencies that each service cannot do without."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping

from drw.kernel.errors import DrwError
from drw.kernel.observability import telemetry

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0
"""Time between two checks of a dependency."""
TIMEOUT_SECONDS = 2.0
"""Time limit of a check; after it, the dependency counts as failed until the check ends."""

Check = Callable[[], Awaitable[None]]
"""Raises an error if a dependency does not work."""


class Dependency:
    """One dependency with the result of its last check."""

    def __init__(self, name: str, check: Check) -> None:
        self.name = name
        self.works = False
        self._check = check
        self._running: asyncio.Task[None] | None = None

    async def update(self, seconds: float) -> None:
        """Check the dependency. A check that is late is neither awaited nor repeated until it ends.

        Cancelling it does not bound its time: clients of databases wait for the server while they cancel a statement.
        """
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name=f"check of {self.name}")
        done, _ = await asyncio.wait([self._running], timeout=seconds)
        works = bool(done) and not self._running.cancelled() and self._running.exception() is None
        if works != self.works:
            log.log(logging.INFO if works else logging.WARNING, "%s %s", self.name, "works" if works else "fails")
        self.works = works
        if done:
            self._running = None

    async def close(self) -> None:
        """Wait for a check that is running, and cancel it if it is late."""
        if self._running is not None:
            _, late = await asyncio.wait([self._running], timeout=TIMEOUT_SECONDS)
            if late:
                self._running.cancel()
                await asyncio.wait(late, timeout=TIMEOUT_SECONDS)

    async def _run(self) -> None:
        try:
            await self._check()
        except DrwError as error:
            log.debug("%s fails: %s", self.name, telemetry.error_type(error))
            raise


class Readiness:
    """Which services are ready. Services share a dependency by its name."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self._dependencies: dict[str, Dependency] = {}
        self._required: dict[str, list[str]] = {}
        self._changed = changed
        self._task: asyncio.Task[None] | None = None

    def require(self, service: str, name: str, check: Check) -> None:
        """Make a service ready only while the check of a dependency succeeds."""
        self._dependencies.setdefault(name, Dependency(name, check))
        if name not in self._required.setdefault(service, []):
            self._required[service].append(name)

    def failing(self, service: str) -> list[str]:
        """Return the names of the dependencies of a service that do not work."""
        return [name for name in self._required.get(service, ()) if not self._dependencies[name].works]

    def report(self, services: Iterable[str]) -> Mapping[str, list[str]]:
        """Return the failing dependencies of each service."""
        return {service: self.failing(service) for service in services}

    async def start(self) -> None:
        """Check all dependencies once, then in the background."""
        await self._update()
        self._task = asyncio.create_task(self._run(), name="readiness")

    async def stop(self) -> None:
        """Stop checking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*(dependency.close() for dependency in self._dependencies.values()))

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            await self._update()

    async def _update(self) -> None:
        await asyncio.gather(*(dependency.update(TIMEOUT_SECONDS) for dependency in self._dependencies.values()))
        self._changed()
