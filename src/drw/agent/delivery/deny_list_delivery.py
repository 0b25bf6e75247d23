"""Brings who is refused or limited to Envoy ahead of everything else: that must not wait for a trial run of routes.

What is written has been generated from names alone, so Envoy's own check at taking it is enough; where it does
refuse, the last good comes back. The list of the cutter is in force first, since Envoy reads it in no time. Its own
filter, of the kind "blocked", takes 0.2 s and more of its main thread for 10,000 names: a long one follows when
nothing has changed for a moment, so that the next change does not wait for it.
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
"""From so many names on, Envoy's own filter waits for a quiet moment."""
QUIET_SECONDS = 2.0
LATEST_SECONDS = 60.0


class DenyListDelivery:
    """The refusals of one data plane: written as soon as they are known, by whoever comes first."""

    def __init__(self, edge: EdgeOptions, files: ConfigFiles, admin: EnvoyAdmin) -> None:
        self._files = files
        self._first = _Delivery(AT_ONCE, edge, files, admin)
        self._settled = _Delivery(SETTLED, edge, files, admin)
        self._configuration = Configuration()
        self._changed = self._waiting_since = 0.0

    @property
    def in_force(self) -> str:
        """What Envoy has said that it enforces."""
        return self._first.taken

    @property
    def limits_change(self) -> int:
        """The number of the newest change of limits that it enforces."""
        return self._first.limits_change

    def want(self, configuration: Configuration) -> None:
        """Let this be what is delivered from now on, whoever asks: what is older must never come back."""
        if configuration.refusals != self._configuration.refusals:
            self._changed = time.monotonic()
            if self._settled.taken == self._configuration.refusals:
                self._waiting_since = self._changed
        self._configuration = configuration

    async def take(self) -> None:
        """Return when Envoy enforces them.

        Raises:
            BadConfiguration: it refuses them; those before stay in force.
            Unavailable: it does not say.
        """
        async with self._first.turn:
            await self._first.take(self._configuration)

    async def settle(self) -> bool:
        """Bring Envoy's own filter there, too; return False where that has to wait. Raises as `take` does."""
        async with self._settled.turn:
            if self._configuration.refusals != self._settled.taken and self._must_wait():
                return False
            await self._settled.take(self._configuration)
            return True

    async def write(self) -> None:
        """Put what must be there before an Envoy can start on disk."""
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
    """Some kinds on their way to Envoy, one at a time."""

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
        self._written = ""  # what is written half is neither these nor those before
        self._files.write(resources, configuration.refusals, self._kinds)
        self._written = configuration.refusals

    async def _refused_so_far(self) -> dict[str, int]:
        try:
            return await self._admin.refusals(self._kinds)
        except Unavailable:
            return dict.fromkeys(self._kinds, 0)  # it does not run yet, so it counts from here
