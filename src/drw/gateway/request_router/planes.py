"""The data planes that watch the desired state here, and what rate limiting is told of them."""

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
        self._told: set[str] = set()

    @contextmanager
    def watching(self, name: str) -> Iterator[None]:
        """Count a data plane among those that are there, for as long as the block lasts."""
        self._watching[name] += 1
        try:
            yield
        finally:
            self._watching[name] -= 1

    async def enforces(self, name: str, change: int) -> None:
        """Tell which change of limits a data plane enforces; 0: its Envoy does not run, or has not said yet."""
        before = self._changes.get(name, 0)
        self._changes[name] = change
        if change != before:
            await self._tell()

    async def keep_telling(self) -> None:
        """Say again and again who is there."""
        while True:
            await self._tell()
            await asyncio.sleep(BEAT_SECONDS)

    async def _tell(self) -> None:
        there = {name: change for name, change in self._changes.items() if change and self._watching[name] > 0}
        gone = self._told - there.keys()
        if not there and not gone:
            return
        planes = [ReportEnforcementRequest.DataPlane(name=name, change=change) for name, change in there.items()]
        with suppress(DrwError):  # it is said again in a moment
            await self._limiting.report_enforcement(ReportEnforcementRequest(data_planes=planes, gone=sorted(gone)))
            self._told = set(there)
