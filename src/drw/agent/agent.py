"""Applies the desired state of the request router to one Envoy, and reports the result of each version.

After any failure the files stay at the last good state, which Envoy keeps and restarts from. Deny lists are delivered
before the rest of a version, without waiting for an earlier version to finish.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from drw.agent.adapters.envoy_admin import EnvoyAdmin, NotRunning
from drw.agent.delivery import envoy
from drw.agent.delivery.credentials import EnvoyCredentials
from drw.agent.delivery.deny_list_delivery import DenyListDelivery
from drw.agent.delivery.files import ConfigFiles, read_seed
from drw.agent.reporting.connection_pressure import ConnectionPressure
from drw.agent.reporting.health import UpstreamHealth
from drw.agent.reporting.log_rotation import ANONYMOUS_BACKUPS, AccessLog
from drw.agent.reporting.metrics import CURRENT, AgentMetrics
from drw.agent.xds import overload
from drw.agent.xds.translation import (
    OTHER_KINDS,
    BadConfiguration,
    EdgeOptions,
    static_configuration,
    translate,
    without_deny_list,
)
from drw.api.gateway.v1.request_router_pb2 import Configuration, ConfigurationReport, WatchConfigurationRequest
from drw.api.gateway.v1.request_router_rpc import RequestRouterClient
from drw.kernel.errors import DeadlineExceeded, DrwError, Unavailable
from drw.kernel.runtime.settings import Profile

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
CHECK_SECONDS = 10.0


class Agent:
    """The agent of one data plane."""

    def __init__(self, profile: Profile, router: RequestRouterClient) -> None:
        self._name = profile.name
        self._router = router
        edge = EdgeOptions.of(profile)
        self._edge = replace(edge, seed=read_seed(edge.plane.folder))
        self._files = ConfigFiles(self._edge)
        self._admin = EnvoyAdmin(self._edge.plane.admin)
        self._deny_list = DenyListDelivery(self._edge, self._files, self._admin)
        self._credentials = EnvoyCredentials(self._edge)
        self._upstream_health = UpstreamHealth(self._admin)
        self._candidate: Configuration | None = None
        self._last_good = self._files.read_last_good()
        self._configuration: Configuration | None = None
        self._state_changed = asyncio.Event()
        self._deny_list_changed = asyncio.Event()
        self._envoy_filter_behind = asyncio.Event()
        self._backup: dict[str, bytes] = {}
        self._rejections_before: dict[str, int] = {}
        self._serialized = b""
        self._written_version = ""
        self._rejection = ""
        self._settled = True
        self._envoy_runs = False
        self._last_report: ConfigurationReport | None = None

    async def run(self) -> None:
        """Run until cancelled."""
        self._edge.plane.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        overload.write_fill_level(self._edge.pressure, 0)
        if self._files.complete():
            self._files.write_bootstrap()  # the profile may have changed since
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._deliver(self._deny_list_changed, self._deliver_deny_list))
            tasks.create_task(self._deliver(self._envoy_filter_behind, self._deny_list.update_envoy_filter))
            tasks.create_task(self._apply_and_report())
            tasks.create_task(self._rotate_logs())
            tasks.create_task(ConnectionPressure(self._edge, self._admin).run())
            if address := self._edge.plane.metrics:
                tasks.create_task(
                    AgentMetrics(address, self._admin, [Path(self._edge.log), Path(self._edge.anonymous_log)]).run()
                )

    async def _watch(self) -> None:
        while True:
            try:
                async for state in self._router.watch_configuration(WatchConfigurationRequest(data_plane=self._name)):
                    self._configuration = state
                    self._deny_list.set_configuration(state)
                    self._deny_list_changed.set()
                    self._state_changed.set()
            except DeadlineExceeded:
                continue  # streams end eventually
            except DrwError as error:
                log.warning("the data plane keeps its configuration: %s", error.message)
                await asyncio.sleep(RETRY_SECONDS)

    async def _rotate_logs(self) -> None:
        logs = [
            AccessLog(Path(self._edge.log), self._admin),
            AccessLog(Path(self._edge.anonymous_log), self._admin, backups=ANONYMOUS_BACKUPS),
        ]
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            for access_log in logs:
                try:
                    await access_log.rotate()
                except (Unavailable, OSError) as error:
                    log.warning("cannot rotate the access log: %s", error)

    async def _deliver(self, changed: asyncio.Event, step: Callable[[], Awaitable[bool]]) -> None:
        """Deliver the deny list on every change and until done, independently of the rest of the version."""
        retry_seconds: float | None = None
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(retry_seconds):
                    await changed.wait()
            changed.clear()
            # Log only the first of consecutive failures.
            retry_seconds = await self._attempt(step, logging.WARNING if retry_seconds is None else logging.DEBUG)

    async def _attempt(self, step: Callable[[], Awaitable[bool]], level: int) -> float | None:
        """Try one step; return the seconds until the next attempt, or None once done."""
        if (configuration := self._configuration) is None or not self._files.complete():
            return None  # the first deny list is written with the whole configuration
        try:
            return None if await step() else RETRY_SECONDS
        except (DrwError, OSError) as error:
            log.log(level, "the deny list %s is not applied yet: %s", configuration.refusals, error)
            return CHECK_SECONDS if isinstance(error, BadConfiguration) else RETRY_SECONDS

    async def _deliver_deny_list(self) -> bool:
        """Enforce deny lists as they arrive, and report it if the rest of the version takes longer."""
        try:
            await self._deny_list.deliver()
        finally:
            self._envoy_filter_behind.set()
        if self._last_report is not None and self._last_report.refusals != self._deny_list.active_version:
            report = ConfigurationReport()
            report.CopyFrom(self._last_report)
            await self._report(report)
        return True

    async def _apply_and_report(self) -> None:
        while True:
            changed = await self._wait_for_change()
            if (configuration := self._configuration) is None:
                continue
            error = await self._apply(configuration)
            report = ConfigurationReport(data_plane=self._name, version=configuration.version, error=error)
            report.notes.extend(self._credential_problems(configuration))
            report.upstreams.extend(await self._upstream_health.read(configuration.upstreams.upstreams))
            self._add_deny_list_status(report)
            if changed or report != self._last_report:
                await self._report(report)

    async def _wait_for_change(self) -> bool:
        """Wait for a change from the router; without one, check periodically that Envoy still has the desired state."""
        try:
            async with asyncio.timeout(CHECK_SECONDS if self._settled else RETRY_SECONDS):
                await self._state_changed.wait()
        except TimeoutError:
            return False
        self._state_changed.clear()
        self._rejection = ""
        return True

    def _add_deny_list_status(self, report: ConfigurationReport) -> None:
        report.refusals = self._deny_list.active_version
        report.limits_change = self._deny_list.limits_change if self._envoy_runs else 0

    def _credential_problems(self, configuration: Configuration) -> list[str]:
        try:
            return self._credentials.refresh(configuration.upstreams.upstreams)
        except OSError as error:
            return [f"the credentials of upstreams cannot be written: {error.strerror}"]

    async def _report(self, report: ConfigurationReport) -> None:
        self._add_deny_list_status(report)
        level = logging.WARNING if report.error else logging.INFO
        log.log(level, "version %s: %s", report.version, report.error or "runs")
        try:
            await self._router.report_configuration(report)
            self._last_report = report
        except DrwError as error:
            log.warning("cannot report version %s: %s", report.version, error.message)

    async def _apply(self, configuration: Configuration) -> str:
        """Apply the desired state; return the reason of a failure, or an empty string."""
        if configuration.version != self._written_version:
            CURRENT.set(0)
        try:
            if configuration.version != self._written_version:
                await self._write(configuration)
            await self._confirm()
            await self._deny_list.deliver()
            self._settled = await self._deny_list.update_envoy_filter()
        except DrwError as error:
            self._settled = not isinstance(error, Unavailable)
            self._envoy_runs = not isinstance(error, NotRunning)
            return error.message
        except OSError as error:
            self._settled = False
            return f"the files of the data plane cannot be written: {error.strerror}"
        CURRENT.set(1)
        self._envoy_runs = True
        return ""

    async def _write(self, configuration: Configuration) -> None:
        if self._rejection:
            raise BadConfiguration(self._rejection)
        await self._deny_list.write()
        remaining = without_deny_list(configuration)
        if (serialized := remaining.SerializeToString(deterministic=True)) != self._serialized:
            await self._write_state(remaining, configuration.version)
            self._serialized = serialized
        self._written_version = configuration.version

    async def _write_state(self, remaining: Configuration, version: str) -> None:
        try:
            await self._write_validated(remaining, version)
        except BadConfiguration as error:
            partial = _with_last_good_routes(remaining, self._last_good) if self._last_good is not None else None
            if partial is not None:
                with suppress(BadConfiguration):
                    await self._write_validated(
                        partial, partial.version
                    )  # a bad route must not delay a new signing key
            self._rejection = error.message  # validating it again would give the same result
            if partial is not None:
                with suppress(BadConfiguration):
                    await self._confirm()
            raise

    async def _write_validated(self, remaining: Configuration, version: str) -> None:
        self._credentials.refresh(remaining.upstreams.upstreams)
        resources = translate(remaining, self._edge)
        await envoy.validate(static_configuration(remaining, self._edge))
        self._backup = self._files.backup(OTHER_KINDS)
        self._rejections_before = await self._admin.rejections_so_far(OTHER_KINDS)
        self._files.write(resources, version, OTHER_KINDS)
        self._files.write_bootstrap()
        self._candidate = remaining

    async def _confirm(self) -> None:
        if rejected := await self._admin.wait_until_active(self._files.versions(OTHER_KINDS), self._rejections_before):
            self._files.restore(self._backup)
            self._written_version, self._serialized = "", b""
            raise BadConfiguration(f"Envoy refuses the {' and '.join(rejected)} of the configuration")
        if self._candidate is not None and self._candidate != self._last_good:
            self._files.write_last_good(self._candidate)
            self._last_good = self._candidate


def _with_last_good_routes(configuration: Configuration, last_good: Configuration) -> Configuration | None:
    """Return the desired state with the last good routes and upstreams, or None if they are unchanged."""
    if configuration.routes == last_good.routes and configuration.upstreams == last_good.upstreams:
        return None
    merged = Configuration()
    merged.CopyFrom(configuration)
    merged.routes.CopyFrom(last_good.routes)
    merged.upstreams.CopyFrom(last_good.upstreams)
    merged.version = f"{configuration.version}~{last_good.version}"[:100]
    return merged
