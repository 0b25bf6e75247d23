"""Connection pressure: reads the client connections of one Envoy and reports its fill level to the overload manager."""

from __future__ import annotations

import asyncio
import logging

from drw.agent.adapters.envoy_admin import EnvoyAdmin
from drw.agent.xds import overload
from drw.agent.xds.translation import EdgeOptions
from drw.kernel.errors import Unavailable

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
CROWDED = 0.87
"""Minimum pressure after a client was refused for too many connections. Idle connections then close after about 5 s
instead of 60 s, which frees room for others behind the same address."""
CROWDED_LOOKS = 20
"""Number of readings after the last refusal."""


class ConnectionPressure:
    """Connection pressure of one Envoy."""

    def __init__(self, edge: EdgeOptions, admin: EnvoyAdmin) -> None:
        self._file = edge.pressure
        self._max_connections = edge.plane.connections.max
        self._admin = admin
        self._last_share = -1.0
        self._refused = 0
        self._crowded = 0

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.step()
            except (Unavailable, OSError) as error:
                log.debug("nobody knows how full of connections Envoy is: %s", error)

    async def step(self) -> None:
        """Read the number, and report it if it changed.

        Raises:
            Unavailable: Envoy does not answer.
        """
        open_now, refused = await self._admin.connections()
        self._crowded = CROWDED_LOOKS if refused > self._refused else max(0, self._crowded - 1)
        self._refused = refused
        share = round(max(open_now / self._max_connections, CROWDED if self._crowded else 0.0), 2)
        if share != self._last_share:
            overload.tell(self._file, share)
            self._last_share = share
