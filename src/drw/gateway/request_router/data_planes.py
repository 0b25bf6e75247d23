"""Data planes that watch the desired state in this process, and their reports to rate limiting."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from drw.api.gateway.v1.rate_limiting_pb2 import ReportEnforcementRequest
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.kernel.errors import DrwError

REPORT_SECONDS = 1.0


class DataPlanes:
    """Data planes whose agents watch the desired state, with the newest change of limits that each enforces."""

    def __init__(self, limiting: RateLimitingClient) -> None:
        self._limiting = limiting
        self._streams: Counter[str] = Counter()
        self._changes: dict[str, int] = {}
        self._reported: set[str] = set()
        self._changed = asyncio.Event()

    @contextmanager
    def connected(self, name: str) -> Iterator[None]:
        """Count a data plane as connected while the block runs."""
        self._streams[name] += 1
        try:
            yield
        finally:
            self._streams[name] -= 1

    def record_change(self, name: str, change: int) -> None:
        """Record the change of limits that a data plane enforces; 0: its Envoy does not run, or has not reported yet.

        `keep_reporting` reports it later, since an agent that waits for rate limiting would delay the next kill.
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
                async with asyncio.timeout(REPORT_SECONDS):
                    await self._changed.wait()

    async def _report(self) -> None:
        connected = {name: change for name, change in self._changes.items() if change and self._streams[name] > 0}
        disconnected = self._reported - connected.keys()
        if not connected and not disconnected:
            return
        planes = [ReportEnforcementRequest.DataPlane(name=name, change=change) for name, change in connected.items()]
        with suppress(DrwError):  # the next report contains it again
            await self._limiting.report_enforcement(
                ReportEnforcementRequest(data_planes=planes, gone=sorted(disconnected))
            )
            self._reported = set(connected)
