"""Connection pressure: reads the client connections of one Envoy and reports its fill level to the overload manager."""

from __future__ import annotations

import asyncio
import logging

from drw.agent.adapters.envoy_admin import EnvoyAdmin
from drw.agent.xds import overload
from drw.agent.xds.translation import EdgeOptions
from drw.kernel.errors import Unavailable

log = logging.getLogger(__name__)

READ_SECONDS = 0.5
MIN_PRESSURE = 0.87
"""Minimum pressure after a client was rejected for too many connections. Idle connections then close after about 5 s
instead of 60 s, which frees connections for others behind the same address."""
PRESSURE_READINGS = 20
"""Number of readings for which it lasts after the last rejection."""


class ConnectionPressure:
    """Connection pressure of one Envoy."""

    def __init__(self, edge: EdgeOptions, admin: EnvoyAdmin) -> None:
        self._file = edge.pressure
        self._max_connections = edge.plane.connections.max
        self._admin = admin
        self._last_level = -1.0
        self._rejected = 0
        self._readings_left = 0

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await asyncio.sleep(READ_SECONDS)
            try:
                await self.step()
            except (Unavailable, OSError) as error:
                log.debug("cannot read the number of connections: %s", error)

    async def step(self) -> None:
        """Read the number, and report it if it changed.

        Raises:
            Unavailable: Envoy does not answer.
        """
        connections, rejected = await self._admin.connections()
        self._readings_left = PRESSURE_READINGS if rejected > self._rejected else max(0, self._readings_left - 1)
        self._rejected = rejected
        level = round(max(connections / self._max_connections, MIN_PRESSURE if self._readings_left else 0.0), 2)
        if level != self._last_level:
            overload.write_fill_level(self._file, level)
            self._last_level = level
