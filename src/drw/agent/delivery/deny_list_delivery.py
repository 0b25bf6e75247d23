"""Delivery of deny lists and limits to Envoy, ahead of everything else, without waiting for the validation of routes.

The files are generated from names alone, so Envoy's check on loading is enough; after a rejection the last good
version is restored. The native filter's list takes effect first. Envoy's own filter, of the kind "blocked", takes
0.2 s or more of the main thread for 10,000 names, so a long list follows only after a quiet moment.
"""

from __future__ import annotations

import asyncio
import time

from drw.agent.adapters.envoy_admin import EnvoyAdmin
from drw.agent.delivery.files import ConfigFiles
from drw.agent.xds.translation import AT_ONCE, SETTLED, BadConfiguration, EdgeOptions, refusals
from drw.api.gateway.v1.request_router_pb2 import Configuration
from drw.kernel.errors import Unavailable

LONG = 500
"""Number of names from which Envoy's own filter waits for a quiet moment."""
QUIET_SECONDS = 2.0
LATEST_SECONDS = 60.0


class DenyListDelivery:
    """Delivers the deny list of one data plane as soon as it is known."""

    def __init__(self, edge: EdgeOptions, files: ConfigFiles, admin: EnvoyAdmin) -> None:
        self._files = files
        self._first = _Delivery(AT_ONCE, edge, files, admin)
        self._settled = _Delivery(SETTLED, edge, files, admin)
        self._configuration = Configuration()
        self._changed = self._waiting_since = 0.0

    @property
    def in_force(self) -> str:
        """The version that Envoy has confirmed."""
        return self._first.taken

    @property
    def limits_change(self) -> int:
        """The number of the newest change of limits in force."""
        return self._first.limits_change

    def want(self, configuration: Configuration) -> None:
        """Set the desired state. An older one must never return."""
        if configuration.refusals != self._configuration.refusals:
            self._changed = time.monotonic()
            if self._settled.taken == self._configuration.refusals:
                self._waiting_since = self._changed
        self._configuration = configuration

    async def take(self) -> None:
        """Return once Envoy enforces them.

        Raises:
            BadConfiguration: Envoy rejects them; the previous ones stay in force.
            Unavailable: Envoy does not report a result.
        """
        async with self._first.turn:
            await self._first.take(self._configuration)

    async def settle(self) -> bool:
        """Update Envoy's own filter too; return False if that has to wait. Raises as `take` does."""
        async with self._settled.turn:
            if self._configuration.refusals != self._settled.taken and self._must_wait():
                return False
            await self._settled.take(self._configuration)
            return True

    async def write(self) -> None:
        """Write the files that Envoy needs to start."""
        if not self._files.complete():
            for delivery in (self._first, self._settled):
                async with delivery.turn:
                    await delivery.write(self._configuration)

    def _must_wait(self) -> bool:
        if (
            not self._settled.taken
            or len(self._configuration.credentials.revoked) + len(self._configuration.blocks) < LONG
        ):
            return False
        now = time.monotonic()
        return now < self._changed + QUIET_SECONDS and now < self._waiting_since + LATEST_SECONDS


class _Delivery:
    """Delivery of some resource kinds to Envoy, one version at a time."""

    def __init__(self, kinds: tuple[str, ...], edge: EdgeOptions, files: ConfigFiles, admin: EnvoyAdmin) -> None:
        self._kinds = kinds
        self._edge = edge
        self._files = files
        self._admin = admin
        self._copy: dict[str, bytes] = {}
        self._before: dict[str, int] = {}
        self._written = ""
        self.taken = ""
        self.limits_change = 0
        self.turn = asyncio.Lock()

    async def take(self, configuration: Configuration) -> None:
        if configuration.refusals == self.taken == self._written:
            return
        await self.write(configuration)
        if refused := await self._admin.taken(self._files.versions(self._kinds), self._before):
            self._files.put_back(self._copy)
            self._written = ""
            raise BadConfiguration(f"Envoy refuses the {' and '.join(refused)} of the configuration")
        self.taken, self.limits_change = configuration.refusals, configuration.limits.change

    async def write(self, configuration: Configuration) -> None:
        if configuration.refusals == self._written:
            return
        resources = refusals(configuration, self._edge, self._kinds)
        self._copy, self._before = self._files.copy(self._kinds), await self._refused_so_far()
        self._written = ""  # a partial write is neither the new nor the old list
        self._files.write(resources, configuration.refusals, self._kinds)
        self._written = configuration.refusals

    async def _refused_so_far(self) -> dict[str, int]:
        try:
            return await self._admin.refusals(self._kinds)
        except Unavailable:
            return dict.fromkeys(self._kinds, 0)  # not running yet, so it starts from here
