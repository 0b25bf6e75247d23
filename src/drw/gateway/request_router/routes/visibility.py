"""Visibility of routes and data planes: callers never see names of other tenants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from drw.api.gateway.v1.request_router_pb2 import ConfigurationReport, Explanation, Rollout, Route
from drw.kernel import tenancy
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.kernel.tenancy import Owner


def visible_routes(routes: Iterable[Route]) -> list[Route]:
    """Return the routes that the caller can see, each without names of other tenants."""
    if tenancy.may_read_platform():
        return list(routes)
    return [visible for route in routes if (visible := _redact_route(route, context.caller())) is not None]


def redact_explanation(explanation: Explanation, routes: Sequence[Route]) -> Explanation:
    """Return an explanation without routes that the caller cannot see."""
    visible = {route.name for route in visible_routes(routes)}
    misses = [miss for miss in explanation.misses if miss.route in visible]
    del explanation.misses[:]
    explanation.misses.extend(misses)
    return explanation


def redact_routes(routes: Iterable[Route]) -> list[Route]:
    """Return all routes, without names of tenants that the caller cannot see.

    Matching of the caller's requests is not affected.
    """
    visible = {route.name: route for route in visible_routes(routes)}
    return [visible.get(route.name, route) for route in routes]


def redact_rollout(rollout: Rollout) -> Rollout:
    """Return a rollout without free text, which can contain names of other tenants."""
    if tenancy.may_read_platform():
        return rollout
    reports = [_redact_report(report) for report in rollout.data_planes]
    return Rollout(version=rollout.version, data_planes=reports)


def _redact_report(report: ConfigurationReport) -> ConfigurationReport:
    redacted = ConfigurationReport()
    redacted.CopyFrom(report)
    redacted.ClearField("notes")
    if report.error:
        redacted.error = f"it cannot run this version; {tenancy.PLATFORM_ADMIN!r} shows why"
    return redacted


def _redact_route(route: Route, principal: Principal) -> Route | None:
    if not route.tenants:
        return route
    visible = [tenant for tenant in route.tenants if tenancy.may_read(_tenant_owner(tenant), principal)]
    if not visible:
        return None
    redacted = Route()
    redacted.CopyFrom(route)
    del redacted.tenants[:]
    redacted.tenants.extend(visible)
    return redacted


def _tenant_owner(tenant: str) -> Owner:
    org, _, desk = tenant.partition("/")
    return Owner(org, desk)
