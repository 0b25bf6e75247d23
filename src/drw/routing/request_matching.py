"""How a request finds its route and its bounds: one meaning for the data plane and for whoever explains it.

The data plane looks twice: first by path, method, headers and caller. Where the route that it finds so stands on the
way of routes that ask for a model, the body is read, and it looks again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from drw.api.gateway.v1.load_balancer_pb2 import Upstream
from drw.api.gateway.v1.request_router_pb2 import HeaderMatch, Route

ORIGINS = ("record", "settings", "table")
MODEL_HEADER = "x-model"
ITSELF = {"/health": "alive", "/healthz": "alive"}
"""Paths at which a data plane answers by itself, before any route."""

FOREIGN = ("x-drw-", "x-envoy-")
"""Headers that only we may set: a client's own are dropped."""

CONNECT_MS = 1000
IDLE_SECONDS = 300
"""What holds where an upstream or a route does not say."""


def is_own(upstream: Upstream) -> bool:
    """Return whether an upstream is a process of the platform; every other one is a third party's.

    Only a process of the platform may know who calls, and only what it says of itself is passed on as the platform's.
    """
    return upstream.origin == "profile" or bool(upstream.services)


def named(route: Route) -> list[str]:
    """Return all upstreams of a route, each once."""
    primary = [share.upstream for share in route.split] or [route.upstream]
    return list(dict.fromkeys([*primary, *route.fallbacks]))


def ordered(routes: Iterable[Route]) -> list[Route]:
    """Return the routes in the order in which they are tried.

    The longest path first; among equal ones those that ask for more: models, then desks, orgs, headers, methods.
    """
    return sorted(routes, key=_place)


def _place(route: Route) -> tuple[object, ...]:
    desks = bool(route.tenants) and all("/" in tenant for tenant in route.tenants)
    conditions = (not route.models, not desks, not route.tenants, -len(route.headers), not route.methods)
    origin = ORIGINS.index(route.origin) if route.origin in ORIGINS else len(ORIGINS)
    return (-len(route.path), *conditions, origin, route.path, route.name)


def under(path: str, prefix: str) -> bool:
    """Return whether the path is the prefix, or goes on after it with a new segment."""
    return path == prefix or path.startswith(f"{prefix}/")


def allowed(path: str, routes: Iterable[Route]) -> list[str]:
    """Return the methods that a path takes of every caller, where it does not take all of them."""
    matching = [route for route in routes if under(path, route.path) and not route.tenants and not route.headers]
    return sorted({method for route in matching for method in route.methods})


def read_under(route: Route, routes: Sequence[Route]) -> list[str]:
    """Return the paths at which the body of a request on this route is read; none where that is never needed.

    Routes with models are tried before, so only what they left over has to be read.
    """
    if route.models:
        return []
    return sorted({other.path for other in routes if other.models and under(other.path, route.path)})


def meets(header: HeaderMatch, value: str | None) -> bool:
    """Return whether a header of a request, or its absence, is what is asked."""
    if value is None:
        return False
    if header.exact:
        return value == header.exact
    return value.startswith(header.prefix)


def belongs(tenants: Sequence[str], org: str, desk: str) -> bool:
    """Return whether a caller is one of the tenants; everybody is one of none."""
    return not tenants or org in tenants or f"{org}/{desk}" in tenants
