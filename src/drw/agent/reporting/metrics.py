"""The metrics endpoint of the agent: its own metrics and all of Envoy's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import Gauge

from drw.agent.adapters.envoy_admin import EnvoyAdmin
from drw.agent.reporting.access_metrics import LogTail
from drw.kernel.errors import Unavailable
from drw.kernel.rpc.http.server import HttpServer, app

log = logging.getLogger(__name__)

NAME = "agent"
READ_SECONDS = 1.0
CURRENT = Gauge("drw_data_plane_current", "1: Envoy runs the newest configuration that its agent has; 0: it does not.")
UP = Gauge("drw_data_plane_up", "1: Envoy answers its agent; 0: it does not.")


class AgentMetrics:
    """Serves `/metrics/agent`."""

    def __init__(self, address: str, admin: EnvoyAdmin, access_logs: Iterable[Path]) -> None:
        self._address = address
        self._admin = admin
        self._logs = [LogTail(file) for file in access_logs]
        self._server = HttpServer(app([], NAME, self._envoy_stats))

    async def run(self) -> None:
        """Serve metrics and follow the access logs, until cancelled."""
        try:
            await self._server.start(self._address)
        except Unavailable as error:
            log.warning("cannot serve metrics: %s", error.message)
            return
        try:
            while True:
                await asyncio.sleep(READ_SECONDS)
                for tail in self._logs:
                    await tail.count()
        finally:
            for tail in self._logs:
                tail.close()
            await self._server.stop(0)

    async def _envoy_stats(self) -> bytes:
        try:
            stats = await self._admin.prometheus()
        except Unavailable as error:
            log.warning("%s", error.message)
            stats = b""
        UP.set(bool(stats))
        return stats
