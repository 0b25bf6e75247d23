"""Reads how many connections of clients one Envoy has, and tells it how full it is: see `drw.agent.xds.overload`."""

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
"""What is told at least once a client was refused for having too many connections. Others behind its address wait for
its idle ones to be closed, after about 5 of 60 seconds."""
CROWDED_LOOKS = 20
"""For so many looks after the last refusal."""


class ConnectionPressure:
    """The pressure of connections on one Envoy."""

    def __init__(self, edge: EdgeOptions, admin: EnvoyAdmin) -> None:
        self._file = edge.pressure
        self._max_connections = edge.plane.connections.max
        self._admin = admin
        self._last_share = -1.0
        self._refused = 0
        self._crowded = 0

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.step()
            except (Unavailable, OSError) as error:
                log.debug("nobody knows how full of connections Envoy is: %s", error)

    async def step(self) -> None:
        """Look, and tell if it is news.

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
