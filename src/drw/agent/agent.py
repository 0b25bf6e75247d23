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
from drw.agent.reporting.log_rotation import KEPT_ANONYMOUS, AccessLog
from drw.agent.reporting.metrics import CURRENT, AgentMetrics
from drw.agent.xds import overload
from drw.agent.xds.translation import OTHERS, BadConfiguration, EdgeOptions, others, translate, whole
from drw.api.gateway.v1.request_router_pb2 import Configuration, ConfigurationReport, WatchConfigurationRequest
from drw.api.gateway.v1.request_router_rpc import RequestRouterClient
from drw.kernel.errors import DeadlineExceeded, DrwError, Unavailable
from drw.kernel.runtime.settings import Profile

log = logging.getLogger(__name__)

AGAIN_SECONDS = 1.0
LOOK_SECONDS = 10.0


class Agent:
    """The agent of one data plane."""

    def __init__(self, profile: Profile, router: RequestRouterClient) -> None:
        self._name = profile.name
        self._router = router
        edge = EdgeOptions.of(profile)
        self._edge = replace(edge, seed=read_seed(edge.plane.folder))
        self._files = ConfigFiles(self._edge)
        self._admin = EnvoyAdmin(self._edge.plane.admin)
        self._refusals = DenyListDelivery(self._edge, self._files, self._admin)
        self._secrets = EnvoyCredentials(self._edge)
        self._circuits = UpstreamHealth(self._admin)
        self._trying: Configuration | None = None
        self._good = self._files.read_good()
        self._configuration: Configuration | None = None
        self._changed = asyncio.Event()
        self._urgent = asyncio.Event()
        self._behind = asyncio.Event()
        self._copy: dict[str, bytes] = {}
        self._before: dict[str, int] = {}
        self._others = b""
        self._written = ""
        self._refused = ""
        self._settled = True
        self._envoy_runs = False
        self._reported: ConfigurationReport | None = None

    async def run(self) -> None:
        """Run until cancelled."""
        self._edge.plane.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        overload.tell(self._edge.pressure, 0)
        if self._files.complete():
            self._files.write_bootstrap()  # the profile may have changed since
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._press(self._urgent, self._refuse))
            tasks.create_task(self._press(self._behind, self._refusals.settle))
            tasks.create_task(self._follow())
            tasks.create_task(self._keep_log())
            tasks.create_task(ConnectionPressure(self._edge, self._admin).run())
            if address := self._edge.plane.metrics:
                tasks.create_task(
                    AgentMetrics(address, self._admin, [Path(self._edge.log), Path(self._edge.anonymous_log)]).run()
                )

    async def _watch(self) -> None:
        while True:
            try:
                await self._watch_once()
            except DeadlineExceeded:
                continue  # streams end eventually
            except DrwError as error:
                log.warning("the data plane stays as it is: %s", error.message)
                await asyncio.sleep(AGAIN_SECONDS)

    async def _keep_log(self) -> None:
        logs = [
            AccessLog(Path(self._edge.log), self._admin),
            AccessLog(Path(self._edge.anonymous_log), self._admin, backups=KEPT_ANONYMOUS),
        ]
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for access in logs:
                try:
                    await access.turn()
                except (Unavailable, OSError) as error:
                    log.warning("the access log cannot be put aside: %s", error)

    async def _watch_once(self) -> None:
        async for configuration in self._router.watch_configuration(WatchConfigurationRequest(data_plane=self._name)):
            self._configuration = configuration
            self._refusals.want(configuration)
            self._urgent.set()
            self._changed.set()

    async def _press(self, news: asyncio.Event, step: Callable[[], Awaitable[bool]]) -> None:
        """Deliver the deny list on every change and until done, independently of the rest of the version."""
        again: float | None = None
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(again):
                    await news.wait()
            news.clear()
            # Log only the first of consecutive failures.
            again = await self._again(step, logging.WARNING if again is None else logging.DEBUG)

    async def _again(self, step: Callable[[], Awaitable[bool]], level: int) -> float | None:
        """Take one step; return the seconds until the next, or None once done."""
        if (configuration := self._configuration) is None or not self._files.complete():
            return None  # the first ones are written with the whole configuration
        try:
            return None if await step() else AGAIN_SECONDS
        except (DrwError, OSError) as error:
            log.log(level, "not in force yet: the refusals %s: %s", configuration.refusals, error)
            return LOOK_SECONDS if isinstance(error, BadConfiguration) else AGAIN_SECONDS

    async def _refuse(self) -> bool:
        """Enforce deny lists as they arrive, and report it if the rest of the version takes longer."""
        try:
            await self._refusals.take()
        finally:
            self._behind.set()
        if self._reported is not None and self._reported.refusals != self._refusals.in_force:
            report = ConfigurationReport()
            report.CopyFrom(self._reported)
            await self._say(report)
        return True

    async def _follow(self) -> None:
        while True:
            news = await self._news()
            if (configuration := self._configuration) is None:
                continue
            error = await self._take(configuration)
            report = ConfigurationReport(data_plane=self._name, version=configuration.version, error=error)
            report.notes.extend(self._lacking(configuration))
            report.upstreams.extend(await self._circuits.seen(configuration.upstreams.upstreams))
            if news or self._is_news(report):
                await self._say(report)

    async def _news(self) -> bool:
        """Wait for a change from the router; without one, check periodically that Envoy still has the desired state."""
        try:
            async with asyncio.timeout(LOOK_SECONDS if self._settled else AGAIN_SECONDS):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        self._refused = ""
        return True

    def _is_news(self, report: ConfigurationReport) -> bool:
        self._add_refusals(report)
        return report != self._reported

    def _add_refusals(self, report: ConfigurationReport) -> None:
        report.refusals = self._refusals.in_force
        report.limits_change = self._refusals.limits_change if self._envoy_runs else 0

    def _lacking(self, configuration: Configuration) -> list[str]:
        try:
            return self._secrets.refresh(configuration.upstreams.upstreams)
        except OSError as error:
            return [f"the credentials of upstreams cannot be written: {error.strerror}"]

    async def _say(self, report: ConfigurationReport) -> None:
        self._add_refusals(report)
        level = logging.WARNING if report.error else logging.INFO
        log.log(level, "version %s: %s", report.version, report.error or "runs")
        try:
            await self._router.report_configuration(report)
            self._reported = report
        except DrwError as error:
            log.warning("nobody heard what became of version %s: %s", report.version, error.message)

    async def _take(self, configuration: Configuration) -> str:
        """Apply the desired state; return the reason of a failure, or an empty string."""
        if configuration.version != self._written:
            CURRENT.set(0)
        try:
            if configuration.version != self._written:
                await self._write(configuration)
            await self._confirm()
            await self._refusals.take()
            self._settled = await self._refusals.settle()
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
        if self._refused:
            raise BadConfiguration(self._refused)
        await self._refusals.write()
        remaining = others(configuration)
        if (seen := remaining.SerializeToString(deterministic=True)) != self._others:
            await self._write_others(remaining, configuration.version)
            self._others = seen
        self._written = configuration.version

    async def _write_others(self, remaining: Configuration, version: str) -> None:
        try:
            await self._put(remaining, version)
        except BadConfiguration as error:
            partly = _with_old_routes(remaining, self._good) if self._good is not None else None
            if partly is not None:
                with suppress(BadConfiguration):
                    await self._put(partly, partly.version)  # a bad route must not delay a new signing key
            self._refused = error.message  # the result would be the same
            if partly is not None:
                with suppress(BadConfiguration):
                    await self._confirm()
            raise

    async def _put(self, remaining: Configuration, version: str) -> None:
        self._secrets.refresh(remaining.upstreams.upstreams)
        resources = translate(remaining, self._edge)
        await envoy.validate(whole(remaining, self._edge))
        self._copy, self._before = self._files.copy(OTHERS), await self._refused_so_far()
        self._files.write(resources, version, OTHERS)
        self._files.write_bootstrap()
        self._trying = remaining

    async def _refused_so_far(self) -> dict[str, int]:
        try:
            return await self._admin.refusals(OTHERS)
        except Unavailable:
            return dict.fromkeys(OTHERS, 0)  # not running yet, so it starts from here

    async def _confirm(self) -> None:
        if refused := await self._admin.taken(self._files.versions(OTHERS), self._before):
            self._files.put_back(self._copy)
            self._written, self._others = "", b""
            raise BadConfiguration(f"Envoy refuses the {' and '.join(refused)} of the configuration")
        if self._trying is not None and self._trying != self._good:
            self._files.write_good(self._trying)
            self._good = self._trying


def _with_old_routes(configuration: Configuration, good: Configuration) -> Configuration | None:
    """Return the desired state with the last good routes and upstreams, or None if they are unchanged."""
    if configuration.routes == good.routes and configuration.upstreams == good.upstreams:
        return None
    merged = Configuration()
    merged.CopyFrom(configuration)
    merged.routes.CopyFrom(good.routes)
    merged.upstreams.CopyFrom(good.upstreams)
    merged.version = f"{configuration.version}~{good.version}"[:100]
    return merged
