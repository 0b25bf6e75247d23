"""Builds the desired state of the data planes: routes, limits, credentials and kills."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing, suppress
from dataclasses import replace

from drw.api.gateway.v1 import request_router_rpc as contract
from drw.api.gateway.v1.authentication_pb2 import GetKeyRequest, WatchCredentialsRequest
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.gateway.v1.load_balancer_pb2 import ListUpstreamsRequest, WatchUpstreamsRequest
from drw.api.gateway.v1.load_balancer_rpc import LoadBalancerClient
from drw.api.gateway.v1.rate_limiting_pb2 import Block, WatchLimitsRequest
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.api.gateway.v1.request_router_pb2 import (
    ApproveKillRequest,
    Configuration,
    ConfigurationReport,
    CreateKillRequest,
    DeleteRouteRequest,
    DeleteRouteResponse,
    ExplainRouteRequest,
    Explanation,
    GetKillRequest,
    GetRolloutRequest,
    Health,
    Kill,
    Kills,
    LiftKillRequest,
    ListKillsRequest,
    ListRoutesRequest,
    ReportConfigurationResponse,
    Rollout,
    Route,
    Routes,
    WatchConfigurationRequest,
    WatchKillsRequest,
)
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.events.publisher import create_tables
from drw.gateway.request_router.data_planes import DataPlanes
from drw.gateway.request_router.desired_state import DesiredState, Part
from drw.gateway.request_router.explain.enrichment import ExplanationEnricher
from drw.gateway.request_router.explain.explanation import ExplainedRequest, explain
from drw.gateway.request_router.kills.approval_rules import PrincipalComparer
from drw.gateway.request_router.kills.store import KillStore
from drw.gateway.request_router.kills.switch import KillSwitch
from drw.gateway.request_router.metrics import measure
from drw.gateway.request_router.routes import validation, visibility
from drw.gateway.request_router.routes.table import RouteSettings, reserved_names
from drw.gateway.request_router.settings import Settings
from drw.kernel import tenancy
from drw.kernel.errors import Conflict, DeadlineExceeded, InvalidRequest, NotFound, Unavailable
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.host import ServiceContext
from drw.kernel.tenancy import Owner
from drw.routing.resource_store import ResourceKind, ResourceStore

MAX_NAME = 100
MAX_DATA_PLANES = 1000
MAX_ERROR = 2000
MAX_HOSTS = 2000
MAX_NOTES = 50
ROUTES = ResourceKind(Route, "route", "request_router_routes")


class RouteNotFound(NotFound):
    """No route of this name was created by SetRoute."""


class RouteIsFixed(Conflict):
    """The platform or its settings define a route of this name."""


class RequestRouter(contract.RequestRouter):
    """Serves `drw.api.gateway.v1.RequestRouter`."""

    def __init__(
        self,
        desired: DesiredState,
        kills: KillSwitch,
        records: ResourceStore[Route],
        settings: tuple[RouteSettings, ...],
        balancer: LoadBalancerClient,
        authentication: AuthenticationClient,
        enricher: ExplanationEnricher,
        data_planes: DataPlanes,
    ) -> None:
        self._desired = desired
        self._kills = kills
        self._records = records
        self._settings = settings
        self._balancer = balancer
        self._authentication = authentication
        self._enricher = enricher
        self._data_planes = data_planes
        self._reports: dict[str, ConfigurationReport] = {}

    async def list_routes(self, request: ListRoutesRequest, /) -> Routes:
        """ListRoutes lists the routes that the caller can see."""
        if (configuration := self._desired.configuration) is None:
            raise self._incomplete_error()
        return Routes(routes=visibility.visible_routes(configuration.routes.routes))

    async def set_route(self, request: Route, /) -> Route:
        """SetRoute creates or replaces a route."""
        credentials = await self._credentials_by_upstream()
        self._check_not_fixed(request.name, credentials)
        route = validation.with_defaults(request)
        validation.check(route, credentials)
        await self._records.put(route.name, route)
        return route

    async def delete_route(self, request: DeleteRouteRequest, /) -> DeleteRouteResponse:
        """DeleteRoute deletes a route that SetRoute created."""
        self._check_not_fixed(request.name, await self._credentials_by_upstream())
        if not await self._records.delete(request.name):
            raise RouteNotFound(f"there is no route {request.name[:80]!r}; `drw routes list` shows all")
        return DeleteRouteResponse()

    async def explain_route(self, request: ExplainRouteRequest, /) -> Explanation:
        """ExplainRoute explains which route, limits, budgets and models apply to a request."""
        if (configuration := self._desired.configuration) is None:
            raise self._incomplete_error()
        headers = {name.lower(): value for name, value in request.headers.items()}
        path = request.path.partition("?")[0]
        explained_request = ExplainedRequest(request.method.upper() or "POST", path, headers, request.model)
        principal = await self._explained_principal(request)
        routes = visibility.redact_routes(configuration.routes.routes)
        explanation = explain(configuration, explained_request, principal, routes)
        await self._enricher.add(explanation, configuration, explained_request, principal)
        return visibility.redact_explanation(explanation, routes)

    async def get_rollout(self, request: GetRolloutRequest, /) -> Rollout:
        """GetRollout returns the desired version, and the last report of each data plane."""
        if (configuration := self._desired.configuration) is None:
            raise self._incomplete_error()
        reports = [report for _, report in sorted(self._reports.items())]
        complete = Rollout(version=configuration.version, data_planes=reports, lost=self._desired.unusable_routes())
        return visibility.redact_rollout(complete)

    async def watch_configuration(self, request: WatchConfigurationRequest, /) -> AsyncIterator[Configuration]:
        """WatchConfiguration streams the desired state, now and after each change."""
        with self._data_planes.connected(request.data_plane):
            async with aclosing(self._desired.versions()) as versions:  # type: ignore[type-var]
                async for configuration in versions:
                    yield configuration

    async def report_configuration(self, request: ConfigurationReport, /) -> ReportConfigurationResponse:
        """ReportConfiguration records the state of one data plane."""
        if request.data_plane not in self._reports and len(self._reports) >= MAX_DATA_PLANES:
            raise InvalidRequest(f"more than {MAX_DATA_PLANES} data planes have reported")
        report = ConfigurationReport(
            data_plane=request.data_plane,
            version=request.version[:MAX_NAME],
            error=request.error[:MAX_ERROR],
            refusals=request.refusals[:MAX_NAME],
            limits_change=request.limits_change,
            upstreams=request.upstreams[:MAX_HOSTS],
            notes=[note[:MAX_ERROR] for note in request.notes[:MAX_NOTES]],
        )
        self._reports[request.data_plane] = report
        self._data_planes.record_change(request.data_plane, request.limits_change)
        return ReportConfigurationResponse()

    async def create_kill(self, request: CreateKillRequest, /) -> Kill:
        """CreateKill rejects new calls of a subject and cuts its live streams on every data plane."""
        return await self._kills.kill(request)

    async def list_kills(self, request: ListKillsRequest, /) -> Kills:
        """ListKills lists active and proposed kills of the caller's org and of the platform, newest first."""
        return await self._kills.list(request)

    async def get_kill(self, request: GetKillRequest, /) -> Kill:
        """GetKill returns a kill."""
        return await self._kills.get(request.id)

    async def approve_kill(self, request: ApproveKillRequest, /) -> Kill:
        """ApproveKill approves a proposed kill or lift."""
        return await self._kills.approve(request.id)

    async def lift_kill(self, request: LiftKillRequest, /) -> Kill:
        """LiftKill lifts a kill, or proposes to lift it if the policy requires approvals."""
        return await self._kills.lift(request)

    async def watch_kills(self, request: WatchKillsRequest, /) -> AsyncIterator[Kills]:
        """WatchKills streams all active kills, now and after each change."""
        async with aclosing(self._kills.watch()) as changes:  # type: ignore[type-var]
            async for kills in changes:
                yield kills

    async def measure(self) -> None:
        """Update the metrics."""
        measure(self._desired.configuration, self._reports.values())

    async def detail(self) -> str:
        """Return the version that each data plane runs, for the status of the service.

        Raises:
            Unavailable: a part of the desired state is missing, a data plane reports an error, or a route has no
                upstream.
        """
        if (configuration := self._desired.configuration) is None:
            raise self._incomplete_error()
        reports = "; ".join(_report_text(report, configuration) for _, report in sorted(self._reports.items()))
        killed = sum(block.reason == Block.KILLED for block in configuration.blocks)
        text = f"version {configuration.version}; {reports or 'no data plane has reported yet'}"
        text += f"; killed: {killed}, see `drw kill list`" if killed else ""
        if unusable := self._desired.unusable_routes():
            text = f"{text}; routes without an upstream: {'; '.join(unusable)}"
        if unusable or any(report.error or report.notes for report in self._reports.values()):
            raise Unavailable(text)
        return text

    async def _credentials_by_upstream(self) -> dict[str, str]:
        """Return the current upstreams with their credentials."""
        response = await self._balancer.list_upstreams(ListUpstreamsRequest())
        return {upstream.name: upstream.credential for upstream in response.upstreams}

    def _check_not_fixed(self, name: str, upstreams: Iterable[str]) -> None:
        if name in reserved_names(upstreams, self._settings):
            raise RouteIsFixed(
                f"{name!r} is a route of the platform or its settings: take another name; a route with the same path "
                "and more conditions is tried first"
            )

    async def _explained_principal(self, request: ExplainRouteRequest) -> Principal:
        """Return the principal to explain for: the caller, or a key or desk that the caller can see."""
        principal = context.caller()
        if request.key and request.desk:
            raise InvalidRequest("a request is explained as a key or as a desk, not as both", param="desk")
        if request.desk and request.desk != principal.desk:
            tenancy.check_change(Owner(principal.org, request.desk))
            return replace(principal, desk=request.desk, key="")
        if request.key:
            key = await self._authentication.get_key(GetKeyRequest(id=request.key))
            return Principal(key.org, key.desk, key.id, frozenset(key.scopes))
        return principal

    def _incomplete_error(self) -> Unavailable:
        return Unavailable(f"waiting for {' and '.join(self._desired.missing())}")


def _report_text(report: ConfigurationReport, configuration: Configuration) -> str:
    status = f"does not run version {report.version}: {report.error}" if report.error else f"runs {report.version}"
    # Data planes apply revoked keys, kills and limits before the other parts of a version.
    pending = "" if report.refusals == configuration.refusals else ", and has not applied all refusals yet"
    notes = f" ({'; '.join(report.notes)})" if report.notes else ""
    return f"data plane {report.data_plane!r} {status}{pending}{notes}{_unclosed_circuits(report)}"


def _unclosed_circuits(report: ConfigurationReport) -> str:
    """List circuits that are open or half-open."""
    text = ""
    for state, state_name in ((Health.OPEN, "open"), (Health.HALF_OPEN, "half-open")):
        if hosts := [f"{h.upstream} at {h.address}" for h in report.upstreams if h.circuit == state]:
            text += f"; circuit {state_name}: {', '.join(hosts)}"
    return text


async def _follow(desired: DesiredState, watch: Callable[[], AsyncIterator[Part]]) -> None:
    while True:
        with suppress(DeadlineExceeded):  # streams have a maximum duration
            async with aclosing(watch()) as parts:  # type: ignore[type-var]
                async for part in parts:
                    await desired.put(part)


async def build(scope: ServiceContext) -> RequestRouter:
    """Build the service from the configuration."""
    settings = scope.settings(Settings)
    desired = DesiredState(settings.routes)
    database = await scope.database()
    await create_tables(database)
    audit = scope.audit()
    authentication = scope.client(AuthenticationClient)
    switch = KillSwitch(
        KillStore(database),
        audit,
        PrincipalComparer(authentication),
        settings.kill_approvals,
        settings.kill_limits,
        settings.kill_proposal_seconds,
    )
    records = ResourceStore(ROUTES, database, audit)
    limiting = scope.client(RateLimitingClient)
    balancer = scope.client(LoadBalancerClient)
    discovery = scope.client(DiscoveryClient) if scope.has("discovery") else None
    enricher = ExplanationEnricher(discovery, limiting)
    data_planes = DataPlanes(limiting)

    async def check_configuration() -> None:
        if desired.configuration is None:
            raise Unavailable("a part of the desired state is missing")

    scope.require("configuration", check_configuration)
    service = RequestRouter(desired, switch, records, settings.routes, balancer, authentication, enricher, data_planes)

    async def credentials() -> None:
        await _follow(desired, lambda: authentication.watch_credentials(WatchCredentialsRequest()))

    async def limits() -> None:
        await _follow(desired, lambda: limiting.watch_limits(WatchLimitsRequest()))

    async def upstreams() -> None:
        await _follow(desired, lambda: balancer.watch_upstreams(WatchUpstreamsRequest()))

    async def kills() -> None:
        await _follow(desired, switch.watch)

    async def routes() -> None:
        async with aclosing(records.changes()) as changes:
            async for _ in changes:
                await desired.put(Routes(routes=await records.all()))

    for source in (credentials, limits, upstreams, kills, routes, switch.expire, data_planes.keep_reporting):
        scope.background(source)
    scope.describe(service.detail)
    scope.on_scrape(service.measure)
    return service
