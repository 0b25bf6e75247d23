"""Data planes that watch the desired state in this process, and their reports to rate limiting."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from drw.api.gateway.v1.rate_limiting_pb2 import ReportEnforcementRequest
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.kernel.errors import DrwError

BEAT_SECONDS = 1.0


class DataPlanes:
    """Those whose agents hold a stream, and the newest change of limits that each enforces."""

    def __init__(self, limiting: RateLimitingClient) -> None:
        self._limiting = limiting
        self._watching: Counter[str] = Counter()
        self._changes: dict[str, int] = {}
        self._reported: set[str] = set()
        self._changed = asyncio.Event()

    @contextmanager
    def watching(self, name: str) -> Iterator[None]:
        """Count a data plane among those that are there, for as long as the block lasts."""
        self._watching[name] += 1
        try:
            yield
        finally:
            self._watching[name] -= 1

    def enforces(self, name: str, change: int) -> None:
        """Record the change of limits that a data plane enforces; 0: its Envoy does not run, or has not reported yet.

        `keep_telling` reports it later: an agent that waited for rate limiting would delay the next kill.
        """
        if change != self._changes.get(name, 0):
            self._changes[name] = change
            self._changed.set()

    async def keep_reporting(self) -> None:
        """Report the data planes after each change and periodically, one report at a time."""
        while True:
            self._changed.clear()
            await self._report()
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT_SECONDS):
                    await self._changed.wait()

    async def _report(self) -> None:
        present = {name: change for name, change in self._changes.items() if change and self._watching[name] > 0}
        gone = self._reported - present.keys()
        if not present and not gone:
            return
        planes = [ReportEnforcementRequest.DataPlane(name=name, change=change) for name, change in present.items()]
        with suppress(DrwError):  # it is said again in a moment
            await self._limiting.report_enforcement(ReportEnforcementRequest(data_planes=planes, gone=sorted(gone)))
            self._reported = set(present)
