"""Puts together what the data plane does with a request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress

from pydantic import Field

from drw.api.gateway.v1 import request_router_rpc as contract
from drw.api.gateway.v1.authentication_pb2 import WatchCredentialsRequest
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.gateway.v1.load_balancer_pb2 import WatchUpstreamsRequest
from drw.api.gateway.v1.load_balancer_rpc import LoadBalancerClient
from drw.api.gateway.v1.rate_limiting_pb2 import Block, WatchLimitsRequest
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.api.gateway.v1.request_router_pb2 import (
    ApproveKillRequest,
    Configuration,
    ConfigurationReport,
    CreateKillRequest,
    GetKillRequest,
    Kill,
    Kills,
    LiftKillRequest,
    ListKillsRequest,
    ListRoutesRequest,
    ReportConfigurationResponse,
    Routes,
    WatchConfigurationRequest,
    WatchKillsRequest,
)
from drw.gateway.request_router.desired import Desired, Part
from drw.gateway.request_router.kill_store import KillStore
from drw.gateway.request_router.kills import KillSwitch, Policy
from drw.gateway.request_router.table import More
from drw.kernel.errors import DeadlineExceeded, InvalidRequest, Unavailable
from drw.kernel.host import Scope
from drw.kernel.settings import Settings as Base

MAX_NAME = 100
MAX_DATA_PLANES = 1000
MAX_ERROR = 2000


class Settings(Base):
    """Routes besides those of the table, and how many persons a kill takes."""

    routes: tuple[More, ...] = ()
    kill_approvals: Policy = Policy()
    kill_proposal_seconds: float = Field(900.0, gt=0, le=86_400)
    """How long a proposal waits for approval."""


class RequestRouter(contract.RequestRouter):
    """Serves `drw.api.gateway.v1.RequestRouter`."""

    def __init__(self, desired: Desired, kills: KillSwitch) -> None:
        self._desired = desired
        self._kills = kills
        self._reports: dict[str, ConfigurationReport] = {}

    async def list_routes(self, request: ListRoutesRequest, /) -> Routes:
        """ListRoutes lists what the data plane lets through."""
        if (configuration := self._desired.configuration) is None:
            raise self._incomplete()
        return configuration.routes

    async def watch_configuration(self, request: WatchConfigurationRequest, /) -> AsyncIterator[Configuration]:
        """WatchConfiguration sends the whole desired state: now, and after each change."""
        async with aclosing(self._desired.versions()) as versions:  # type: ignore[type-var]
            async for configuration in versions:
                yield configuration

    async def report_configuration(self, request: ConfigurationReport, /) -> ReportConfigurationResponse:
        """ReportConfiguration tells what became of a version on one data plane."""
        if not 0 < len(request.data_plane) <= MAX_NAME:
            raise InvalidRequest(f"the name of a data plane has 1 to {MAX_NAME} characters", param="data_plane")
        if request.data_plane not in self._reports and len(self._reports) >= MAX_DATA_PLANES:
            raise InvalidRequest(f"more than {MAX_DATA_PLANES} data planes have reported")
        kept = ConfigurationReport(
            data_plane=request.data_plane,
            version=request.version[:MAX_NAME],
            error=request.error[:MAX_ERROR],
            refusals=request.refusals[:MAX_NAME],
        )
        self._reports[request.data_plane] = kept
        return ReportConfigurationResponse()

    async def create_kill(self, request: CreateKillRequest, /) -> Kill:
        """CreateKill refuses all new calls of a subject and cuts its live streams on every data plane."""
        return await self._kills.kill(request)

    async def list_kills(self, request: ListKillsRequest, /) -> Kills:
        """ListKills lists what is killed or proposed, newest first."""
        return await self._kills.list(ended=request.all)

    async def get_kill(self, request: GetKillRequest, /) -> Kill:
        """GetKill shows one kill."""
        return await self._kills.get(request.id)

    async def approve_kill(self, request: ApproveKillRequest, /) -> Kill:
        """ApproveKill adds the caller's voice to what is proposed, a kill or a lift."""
        return await self._kills.approve(request.id)

    async def lift_kill(self, request: LiftKillRequest, /) -> Kill:
        """LiftKill lets calls through again, or proposes that where the policy asks for more persons."""
        return await self._kills.lift(request)

    async def watch_kills(self, request: WatchKillsRequest, /) -> AsyncIterator[Kills]:
        """WatchKills sends all kills in force: now, and after each change."""
        async with aclosing(self._kills.watch()) as news:  # type: ignore[type-var]
            async for kills in news:
                yield kills

    async def detail(self) -> str:
        """Return which version each data plane runs.

        Raises:
            Unavailable: a part of the desired state is missing, or a data plane is not where it should be.
        """
        if (configuration := self._desired.configuration) is None:
            raise self._incomplete()
        said = "; ".join(_told(report, configuration) for _, report in sorted(self._reports.items()))
        killed = sum(block.reason == Block.KILLED for block in configuration.blocks)
        text = f"version {configuration.version}; {said or 'no data plane has reported yet'}"
        text += f"; killed: {killed}, see `drw kill list`" if killed else ""
        if any(report.error for report in self._reports.values()):
            raise Unavailable(text)
        return text

    def _incomplete(self) -> Unavailable:
        return Unavailable(f"waiting for {' and '.join(self._desired.missing())}")


def _told(report: ConfigurationReport, wanted: Configuration) -> str:
    fate = f"does not run version {report.version}: {report.error}" if report.error else f"runs {report.version}"
    # Who is revoked, killed or over a limit is in force before the rest of a version is.
    late = "" if report.refusals == wanted.refusals else ", and does not refuse all yet that it should"
    return f"data plane {report.data_plane!r} {fate}{late}"


async def _follow(desired: Desired, watch: Callable[[], AsyncIterator[Part]]) -> None:
    while True:
        with suppress(DeadlineExceeded):  # no stream lasts for ever
            async with aclosing(watch()) as news:  # type: ignore[type-var]
                async for part in news:
                    await desired.put(part)


async def build(scope: Scope) -> RequestRouter:
    """Make the service with what the configuration names."""
    own = scope.settings(Settings)
    desired = Desired(own.routes)
    store = KillStore(await scope.database())
    switch = KillSwitch(store, scope.audit(), own.kill_approvals, own.kill_proposal_seconds)
    service = RequestRouter(desired, switch)
    authentication = scope.client(AuthenticationClient)
    limiting = scope.client(RateLimitingClient)
    balancer = scope.client(LoadBalancerClient)

    async def credentials() -> None:
        await _follow(desired, lambda: authentication.watch_credentials(WatchCredentialsRequest()))

    async def limits() -> None:
        await _follow(desired, lambda: limiting.watch_limits(WatchLimitsRequest()))

    async def upstreams() -> None:
        await _follow(desired, lambda: balancer.watch_upstreams(WatchUpstreamsRequest()))

    async def kills() -> None:
        await _follow(desired, switch.watch)

    for source in (credentials, limits, upstreams, kills):
        scope.background(source)
    scope.describe(service.detail)
    return service
