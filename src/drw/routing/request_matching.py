"""Request matching: route precedence and conditions, shared by the data plane's configuration and explanations.

The data plane matches twice: first by path, method, headers and caller. If routes with models exist below the path, it
reads the body and matches again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from drw.api.gateway.v1.load_balancer_pb2 import Upstream
from drw.api.gateway.v1.request_router_pb2 import HeaderMatch, Route

ORIGINS = ("record", "settings", "table")
MODEL_HEADER = "x-model"
WILDCARD = "*"
"""In the path of a route of the platform: any characters except "/". Routes of operators have none."""
OWN_PATHS = {"/health": "alive", "/healthz": "alive"}
"""Paths that the data plane answers itself."""

PLATFORM_HEADERS = ("x-drw-", "x-envoy-")
"""Prefixes of headers that only the platform sets; those of clients are removed."""

CONNECT_MS = 1000
IDLE_SECONDS = 300
"""Defaults of upstreams and routes."""


def is_platform_process(upstream: Upstream) -> bool:
    """Return whether an upstream is a process of the platform; others are third-party.

    Identity headers are sent only to processes of the platform.
    """
    return upstream.origin == "profile" or bool(upstream.services)


def upstreams_of(route: Route) -> list[str]:
    """Return all upstreams of a route without duplicates."""
    primary = [share.upstream for share in route.split] or [route.upstream]
    return list(dict.fromkeys([*primary, *route.fallbacks]))


def by_precedence(routes: Iterable[Route]) -> list[Route]:
    """Return the routes in the order in which the data plane tries them.

    The longest path comes first, then the route with more conditions: models, desks, orgs, headers, methods.
    """
    return sorted(routes, key=_precedence)


def _precedence(route: Route) -> tuple[object, ...]:
    desks = bool(route.tenants) and all("/" in tenant for tenant in route.tenants)
    conditions = (not route.models, not desks, not route.tenants, -len(route.headers), not route.methods)
    origin = ORIGINS.index(route.origin) if route.origin in ORIGINS else len(ORIGINS)
    return (-len(route.path), *conditions, origin, route.path, route.name)


def path_pattern(path: str) -> str:
    """Return a regular expression of the whole path for a path in which `*` stands for characters except "/"."""
    return "[^/]+".join(re.escape(part) for part in path.split(WILDCARD))


def is_below(path: str, prefix: str) -> bool:
    """Return whether the path equals the prefix, or continues it with a new segment.

    A path with `*` is no prefix: the whole path matches it.
    """
    if WILDCARD in prefix:
        return re.fullmatch(path_pattern(prefix), path) is not None
    return path == prefix or path.startswith(f"{prefix}/")


def allowed_methods(path: str, routes: Iterable[Route]) -> list[str]:
    """Return the methods that routes without tenants and headers allow at a path; empty: all methods."""
    matching = [route for route in routes if is_below(path, route.path) and not route.tenants and not route.headers]
    return sorted({method for route in matching for method in route.methods})


def body_read_paths(route: Route, routes: Sequence[Route]) -> list[str]:
    """Return the paths below a route at which the data plane reads the body; empty: none.

    Routes with models match only after the body is read, so a route without models must read it for them.
    """
    if route.models:
        return []
    return sorted({other.path for other in routes if other.models and is_below(other.path, route.path)})


def header_matches(header: HeaderMatch, value: str | None) -> bool:
    """Return whether the value of a header matches; None: the header is absent."""
    if value is None:
        return False
    if header.exact:
        return value == header.exact
    return value.startswith(header.prefix)


def is_tenant(tenants: Sequence[str], org: str, desk: str) -> bool:
    """Return whether a caller is one of the tenants; an empty list matches every caller."""
    return not tenants or org in tenants or f"{org}/{desk}" in tenants
