"""Our routes as Envoy's: the path, the scopes, the bounds, and what a client reads when something is in the way."""

from __future__ import annotations

from collections.abc import Iterator

from drw.agent import filters
from drw.agent.shapes import Json, typed
from drw.api.gateway.v1.request_router_pb2 import Configuration, Route

NAME = "drw"
NOTES = "drw"
"""The namespace of a route's metadata that local replies read."""

RETRY_ON = "connect-failure,reset-before-request,refused-stream"
"""Only where nothing was sent: whatever else failed may have run."""

BODILESS = ("GET", "HEAD", "DELETE", "OPTIONS")
DEFAULT_IDLE_SECONDS = 300


def route_configuration(configuration: Configuration) -> Json:
    """Return the whole table: the longest path first, and a refusal at its end."""
    gone = {upstream.name: upstream.when_gone for upstream in configuration.upstreams.upstreams}
    ordered = sorted(configuration.routes.routes, key=lambda route: (-len(route.path), route.path, route.name))
    own = [entry for route in ordered for entry in _entries(route, gone[route.upstream])]
    host = {"name": NAME, "domains": ["*"], "routes": [_alive(), *own, _nothing()]}
    return typed("envoy.config.route.v3.RouteConfiguration", name=NAME, virtual_hosts=[host])


def _entries(route: Route, gone: str) -> Iterator[Json]:
    for method in route.methods or [""]:
        entry = _entry(route, gone, method)
        if method not in BODILESS and 0 < route.max_body_bytes < filters.DRAINED_BYTES:
            yield _declared(entry, route.max_body_bytes)
            yield _drained(entry)
        else:
            yield entry


def _entry(route: Route, gone: str, method: str) -> Json:
    methods = [{"name": ":method", "string_match": {"exact": method}}] if method else []
    return {
        "name": route.name,
        "match": {"path_separated_prefix": route.path, "headers": methods},
        "route": _action(route),
        "metadata": {"filter_metadata": {NOTES: _notes(route, gone)}},
        "typed_per_filter_config": _bounds(route),
    }


def _declared(entry: Json, most: int) -> Json:
    """Return the entry for bodies that say that they are small enough."""
    length = {"name": "content-length", "range_match": {"start": "0", "end": str(most + 1)}}
    return entry | {"match": entry["match"] | {"headers": [*entry["match"]["headers"], length]}}


def _drained(entry: Json) -> Json:
    """Return the entry for all others: too large, or of unknown size. They are read before they are refused.

    Otherwise the connection would be reset under a client that is still sending, and many
    clients then never see the answer.
    """
    return entry | {"typed_per_filter_config": entry["typed_per_filter_config"] | {filters.DRAIN: filters.drained()}}


def _action(route: Route) -> Json:
    return {
        "cluster": route.upstream,
        "timeout": "0s",  # a stream may last; only a pause in it is bounded
        "idle_timeout": f"{route.idle_seconds or DEFAULT_IDLE_SECONDS}s",
        "retry_policy": {"retry_on": RETRY_ON, "num_retries": 2},
    }


def _notes(route: Route, gone: str) -> Json:
    notes = {"route": route.name, "gone": gone, "needs": " or ".join(repr(scope) for scope in route.scopes)}
    if route.max_body_bytes:
        notes["max_body"] = f"{route.max_body_bytes} bytes"
    return notes


def _bounds(route: Route) -> Json:
    bounds = {filters.SCOPES: filters.one_of(list(route.scopes)) if route.scopes else filters.any_key()}
    if route.max_body_bytes:
        bounds[filters.SIZES] = filters.at_most(route.max_body_bytes)
    return bounds


def _alive() -> Json:
    alive = _direct("alive", {"path": filters.ALIVE}, 200)
    alive["typed_per_filter_config"][filters.LIMITS] = typed("envoy.config.route.v3.FilterConfig", disabled=True)
    return alive


def _nothing() -> Json:
    return _direct("nothing", {"prefix": "/"}, 404)


def _direct(name: str, match: Json, status: int) -> Json:
    return {
        "name": name,
        "match": match,
        "direct_response": {"status": status},
        "typed_per_filter_config": {filters.SCOPES: filters.anybody()},
    }


def reference(source: Json) -> Json:
    """Return how the listener asks for the table."""
    return {"route_config_name": NAME, "config_source": source}
