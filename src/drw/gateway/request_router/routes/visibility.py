"""Visibility of routes and data planes: callers never see names of other tenants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from drw.api.gateway.v1.request_router_pb2 import ConfigurationReport, Explanation, Rollout, Route
from drw.kernel import tenancy
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.kernel.tenancy import Owner


def visible_routes(every: Iterable[Route]) -> list[Route]:
    """Return the routes that the caller can see, without names of other tenants."""
    if tenancy.sees_platform():
        return list(every)
    return [shown for route in every if (shown := _shown(route, context.caller())) is not None]


def redact_explanation(explanation: Explanation, every: Sequence[Route]) -> Explanation:
    """Return an explanation without routes that the caller cannot see."""
    seen = {route.name for route in visible_routes(every)}
    misses = [miss for miss in explanation.misses if miss.route in seen]
    del explanation.misses[:]
    explanation.misses.extend(misses)
    return explanation


def redact_routes(every: Iterable[Route]) -> list[Route]:
    """Return all routes, without names of tenants that the caller cannot see.

    Matching of the caller's requests is not affected.
    """
    seen = {route.name: route for route in visible_routes(every)}
    return [seen.get(route.name, route) for route in every]


def redact_rollout(complete: Rollout) -> Rollout:
    """Return a rollout without free text, which can contain names of other tenants."""
    if tenancy.sees_platform():
        return complete
    planes = [_plane(report) for report in complete.data_planes]
    return Rollout(version=complete.version, data_planes=planes)


def _plane(report: ConfigurationReport) -> ConfigurationReport:
    shown = ConfigurationReport()
    shown.CopyFrom(report)
    shown.ClearField("notes")
    if report.error:
        shown.error = f"it cannot run this version; {tenancy.PLATFORM_ADMIN!r} shows why"
    return shown


def _shown(route: Route, principal: Principal) -> Route | None:
    if not route.tenants:
        return route
    visible = [tenant for tenant in route.tenants if tenancy.may_read(_owner(tenant), principal)]
    if not visible:
        return None
    shown = Route()
    shown.CopyFrom(route)
    del shown.tenants[:]
    shown.tenants.extend(visible)
    return shown


def _owner(tenant: str) -> Owner:
    org, _, desk = tenant.partition("/")
    return Owner(org, desk)
