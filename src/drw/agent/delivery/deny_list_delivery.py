"""Delivery of deny lists and limits to Envoy, ahead of everything else, without waiting for the validation of routes.

The files are generated from names alone, so Envoy's check on loading is enough; after a rejection the last good
version is restored. The native filter's list takes effect first. Envoy's own filter, of the kind "blocked", takes
0.2 s or more of the main thread for 10,000 names, so a long list follows only after 2 s without changes.
"""

from __future__ import annotations

import asyncio
import time

from drw.agent.adapters.envoy_admin import EnvoyAdmin
from drw.agent.delivery.files import ConfigFiles
from drw.agent.xds.translation import DELAYED_KINDS, FIRST_KINDS, BadConfiguration, EdgeOptions, deny_list_resources
from drw.api.gateway.v1.request_router_pb2 import Configuration

LONG_LIST = 500
"""Number of names from which the update of Envoy's own filter waits until no change came for a while."""
QUIET_SECONDS = 2.0
MAX_WAIT_SECONDS = 60.0


class DenyListDelivery:
    """Delivers the deny list of one data plane as soon as it changes."""

    def __init__(self, edge: EdgeOptions, files: ConfigFiles, admin: EnvoyAdmin) -> None:
        self._files = files
        self._native_filter = _Delivery(FIRST_KINDS, edge, files, admin)
        self._envoy_filter = _Delivery(DELAYED_KINDS, edge, files, admin)
        self._configuration = Configuration()
        self._changed_at = self._waiting_since = 0.0

    @property
    def active_version(self) -> str:
        """The version that Envoy has confirmed."""
        return self._native_filter.active_version

    @property
    def limits_change(self) -> int:
        """The number of the newest change of limits in force."""
        return self._native_filter.limits_change

    def set_configuration(self, configuration: Configuration) -> None:
        """Set the desired state. Older states must not follow newer ones."""
        if configuration.refusals != self._configuration.refusals:
            self._changed_at = time.monotonic()
            if self._envoy_filter.active_version == self._configuration.refusals:
                self._waiting_since = self._changed_at
        self._configuration = configuration

    async def deliver(self) -> None:
        """Return once Envoy enforces the deny list and the limits.

        Raises:
            BadConfiguration: Envoy rejects them; the previous ones stay in force.
            Unavailable: Envoy does not report a result.
        """
        async with self._native_filter.lock:
            await self._native_filter.deliver(self._configuration)

    async def update_envoy_filter(self) -> bool:
        """Update Envoy's own filter too; return False if that has to wait. Raises as `deliver` does."""
        async with self._envoy_filter.lock:
            if self._configuration.refusals != self._envoy_filter.active_version and self._must_wait():
                return False
            await self._envoy_filter.deliver(self._configuration)
            return True

    async def write(self) -> None:
        """Write the files that Envoy needs to start."""
        if not self._files.complete():
            for delivery in (self._native_filter, self._envoy_filter):
                async with delivery.lock:
                    await delivery.write(self._configuration)

    def _must_wait(self) -> bool:
        if (
            not self._envoy_filter.active_version
            or len(self._configuration.credentials.revoked) + len(self._configuration.blocks) < LONG_LIST
        ):
            return False
        now = time.monotonic()
        return now < self._changed_at + QUIET_SECONDS and now < self._waiting_since + MAX_WAIT_SECONDS


class _Delivery:
    """Delivery of some resource kinds to Envoy, one version at a time."""

    def __init__(self, kinds: tuple[str, ...], edge: EdgeOptions, files: ConfigFiles, admin: EnvoyAdmin) -> None:
        self._kinds = kinds
        self._edge = edge
        self._files = files
        self._admin = admin
        self._backup: dict[str, bytes] = {}
        self._rejections_before: dict[str, int] = {}
        self._written_version = ""
        self.active_version = ""
        self.limits_change = 0
        self.lock = asyncio.Lock()

    async def deliver(self, configuration: Configuration) -> None:
        if configuration.refusals == self.active_version == self._written_version:
            return
        await self.write(configuration)
        if rejected := await self._admin.wait_until_active(self._files.versions(self._kinds), self._rejections_before):
            self._files.restore(self._backup)
            self._written_version = ""
            raise BadConfiguration(f"Envoy refuses the {' and '.join(rejected)} of the configuration")
        self.active_version, self.limits_change = configuration.refusals, configuration.limits.change

    async def write(self, configuration: Configuration) -> None:
        if configuration.refusals == self._written_version:
            return
        resources = deny_list_resources(configuration, self._edge, self._kinds)
        self._backup = self._files.backup(self._kinds)
        self._rejections_before = await self._admin.rejections_so_far(self._kinds)
        self._written_version = ""  # a partial write is neither the new nor the old list
        self._files.write(resources, configuration.refusals, self._kinds)
        self._written_version = configuration.refusals
