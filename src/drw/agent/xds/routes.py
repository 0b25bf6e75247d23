"""Translation of routes to Envoy's route table: paths, scopes, limits, error messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from drw.agent import cutter
from drw.agent.xds import clusters
from drw.agent.xds.builders import Json, extension, header, typed
from drw.agent.xds.http_filters import body_extraction, cors, filters
from drw.api.gateway.v1.request_router_pb2 import Configuration, HeaderMatch, Route
from drw.routing.request_matching import (
    IDLE_SECONDS,
    MODEL_HEADER,
    allowed_methods,
    body_read_paths,
    by_precedence,
    is_platform_process,
    upstreams_of,
)

NAME = "drw"
NOTES = "drw"
"""Metadata namespace of routes for local replies."""

OWN = "own"
"""Marks routes to platform processes."""

RETRY_ON = "connect-failure,reset-before-request,refused-stream"
"""Retry only if nothing was sent, because other failures may have executed the request."""

FALL_BACK_ON = f"gateway-error,reset,retriable-status-codes,{RETRY_ON}"
FALL_BACK_STATUS = [429, 500]
"""With fallbacks a request may run twice; configuring them accepts that."""

BODILESS = ("GET", "HEAD", "DELETE", "OPTIONS")
READERS = (filters.BODY, filters.FURTHER)
"""Filters enabled by the first matched route, which must be enabled on every route that may match later."""

UNREAD_STATUS = 422
"""Response code details of an unreadable body, matched by local replies."""
READING = ("GET", "HEAD")
READ_BYTES = 64 << 20
"""Buffer limit for request bodies and for responses with usage extraction."""


def route_configuration(configuration: Configuration, origins: Sequence[str] = ()) -> Json:
    """Return the route table: longer prefixes first, rejections last.

    `origins`: allowed CORS origins.
    """
    table = _RouteTable(
        routes=by_precedence(configuration.routes.routes),
        gone={upstream.name: upstream.when_gone for upstream in configuration.upstreams.upstreams},
        own={upstream.name for upstream in configuration.upstreams.upstreams if is_platform_process(upstream)},
    )
    served = [entry for route in table.routes for entry in _entries(route, table)]
    alive = [_direct("alive", {"path": path, "headers": [_methods(READING)]}, 200) for path in filters.ALIVE]
    fallbacks = [*_wrong_methods(table.routes), _nothing(table.routes)]
    crossing = bool(origins and table.gone)
    before = [cors.preflight(next(iter(table.gone)))] if crossing else []
    host: Json = {"name": NAME, "domains": ["*"], "matcher": _by_path([*before, *alive, *served, *fallbacks])}
    if crossing:
        host |= cors.policy(origins)
    if on := _switched_on(configuration):
        host["typed_per_filter_config"] = host.get("typed_per_filter_config", {}) | on
    return typed("envoy.config.route.v3.RouteConfiguration", name=NAME, virtual_hosts=[host])


def entries(host: Json) -> list[Json]:
    """Return the entries of a virtual host; an entry may occur several times."""
    match = host.get("matcher", {})
    paths = match.get("matcher_tree", {}).get("prefix_match_map", {}).get("map", {})
    found = [*paths.values(), *([match["on_no_match"]] if match else [])]
    listed = [one["action"]["typed_config"]["routes"] for one in found]
    return [entry for part in (host.get("routes", []), *listed) for entry in part]


def _by_path(table: Sequence[Json]) -> Json:
    """Return the prefix matcher that selects the entries of a path.

    Envoy tries entries one by one, and evaluates an entry's headers before its path.
    """
    paths = sorted({path for entry in table if (path := _path(entry))})
    by_prefix = {path: _tried(entry for entry in table if path.startswith(_path(entry))) for path in paths}
    at = typed("envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name=":path")
    matcher = {"input": extension("path", at), "prefix_match_map": {"map": by_prefix}}
    return {"matcher_tree": matcher, "on_no_match": _tried(entry for entry in table if not _path(entry))}


def _path(entry: Json) -> str:
    """Return the path of an entry, or "" if it applies to all paths."""
    match = entry["match"]
    return str(match.get("path_separated_prefix") or match.get("path") or "")


def _tried(table: Iterable[Json]) -> Json:
    return {"action": extension("routes", typed("envoy.config.route.v3.RouteList", routes=list(table)))}


def _switched_on(configuration: Configuration) -> Json:
    """Return the filters enabled for every request."""
    credentials = configuration.credentials
    names = [filters.IDENTITY] if credentials.issuers or credentials.certificates else []
    names += [filters.KNOWN, *READERS] if any(map(_by_caller, configuration.routes.routes)) else []
    return dict.fromkeys(names, filters.switched_on())


@dataclass(frozen=True, slots=True)
class _RouteTable:
    routes: Sequence[Route]
    gone: Mapping[str, str]
    """Error message while an upstream does not answer."""
    own: Set[str]
    """Upstreams that are platform processes."""


def _by_caller(route: Route) -> bool:
    """Return whether route matching depends on the caller, whose headers are set by filters."""
    return bool(route.tenants or route.headers or "key" in route.affinity)


def _entries(route: Route, table: _RouteTable) -> Iterator[Json]:
    for headers in _callers(route):
        for method in route.methods or [""]:
            matchers = [*_method(method), *headers]
            if route.models:
                yield from _by_model(route, table, matchers)
            else:
                yield from _by_size(_entry(route, table, matchers, _reading(route, table.routes)), method, route)


def _by_model(route: Route, table: _RouteTable, headers: list[Json]) -> Iterator[Json]:
    """Yield the entries of a route that matches on models. All but the first match only after the body was read."""
    if route.model_header:
        pattern = "|".join(filters.literal(model) for model in sorted(route.models))
        matchers = [*headers, _matches(MODEL_HEADER, {"safe_regex": _regex(pattern)})]
        yield from _by_size(_entry(route, table, matchers, by_header=True), "POST", route)
    yield _encoded(route, headers)
    values = [{"string_match": {"exact": model}} for model in sorted(route.models)]
    model = _metadata("model", {"or_match": {"value_matchers": [*values, *values[:1]]}})  # at least two
    plain = _entry(route, table, headers)
    if route.pass_through:
        stream = _entry(route, table, headers, stream=True)
        yield from _once_read(stream | {"match": stream["match"] | {"dynamic_metadata": [model, *_streams()]}})
        yield from _once_read(plain | {"match": plain["match"] | {"dynamic_metadata": [model]}})
    else:
        yield plain | {"match": plain["match"] | {"dynamic_metadata": [model]}}


def _once_read(entry: Json) -> Iterator[Json]:
    """Yield the entry for buffered bodies, preceded by the one that buffers or rejects them."""
    read = {"name": body_extraction.READ, "present_match": True}
    yield entry | {"match": entry["match"] | {"headers": [*entry["match"]["headers"], read]}}
    yield {k: v for k, v in entry.items() if k != "route"} | {"direct_response": {"status": UNREAD_STATUS}}


def _metadata(field: str, value: Json) -> Json:
    return {"filter": body_extraction.NAMESPACE, "path": [{"key": field}], "value": value}


def _streams() -> list[Json]:
    """Any value but false, because some upstreams accept 1 or "true"."""
    no: list[Json] = [{"bool_match": False}, {"null_match": {}}]
    return [
        _metadata("stream", {"present_match": True}),
        *(_metadata("stream", value) | {"invert": True} for value in no),
    ]


def _by_size(entry: Json, method: str, route: Route) -> Iterator[Json]:
    if method not in BODILESS and 0 < route.max_body_bytes < filters.DRAINED_BYTES:
        yield _declared(entry, route.max_body_bytes)
        yield _drained(entry, route)
    else:
        yield entry


def _entry(
    route: Route,
    table: _RouteTable,
    headers: list[Json],
    extra: Json | None = None,
    *,
    stream: bool = False,
    by_header: bool = False,
) -> Json:
    bounds = _bounds(route) | (extra or {})
    is_platform = table.own >= set(upstreams_of(route))
    if (further := body_extraction.chain(route, stream=stream, by_header=by_header)) is not None:
        bounds[filters.FURTHER] = further
    needs_body = bool(extra) or bool(route.models) or route.pass_through
    return {
        "name": route.name,
        "match": {"path_separated_prefix": route.path, "headers": headers},
        "route": _action(route),
        "metadata": {
            "filter_metadata": {NOTES: _notes(route, table.gone[clusters.first(route)], is_platform=is_platform)}
        },
        "typed_per_filter_config": bounds,
        **({"request_body_buffer_limit": READ_BYTES} if needs_body else {}),
    }


def _callers(route: Route) -> Iterator[list[Json]]:
    header_matchers = [_header(one) for one in route.headers]
    for tenant in route.tenants or [""]:
        org, _, desk = tenant.partition("/")
        identity = {"x-drw-org": org, "x-drw-desk": desk}
        yield [*(_matches(name, {"exact": value}) for name, value in identity.items() if value), *header_matchers]


def _method(method: str) -> list[Json]:
    return [_matches(":method", {"exact": method})] if method else []


def _methods(methods: Sequence[str]) -> Json:
    return _matches(":method", {"safe_regex": _regex("|".join(methods))})


def _header(condition: HeaderMatch) -> Json:
    if condition.exact or condition.prefix:
        return _matches(condition.name, {"exact": condition.exact} if condition.exact else {"prefix": condition.prefix})
    return {"name": condition.name, "present_match": True}


def _matches(name: str, value: Json) -> Json:
    return {"name": name, "string_match": value}


def _regex(text: str) -> Json:
    return {"google_re2": {}, "regex": text}


def _reading(route: Route, routes: Sequence[Route]) -> Json:
    paths = body_read_paths(route, routes)
    return _reads(body_extraction.read(paths, body_extraction.fields(routes))) if paths else {}


def _reads(how: Json) -> Json:
    return {filters.BODY: how, filters.FURTHER: filters.switched_on()}


def _declared(entry: Json, max_bytes: int) -> Json:
    """Return the entry for bodies with a content-length within the limit."""
    length = {"name": "content-length", "range_match": {"start": "0", "end": str(max_bytes + 1)}}
    return entry | {"match": entry["match"] | {"headers": [*entry["match"]["headers"], length]}}


def _drained(entry: Json, route: Route) -> Json:
    """Return the entry for bodies that are too large or of unknown size. They are read before the rejection.

    Otherwise the connection would be reset while the client is sending, and many clients would miss the response.
    """
    drained = {
        cutter.CUTTER: filters.needs(route.scopes, filters.UNBOUNDED),
        filters.DRAIN: filters.drained(),
        filters.SIZES: filters.at_most(route.max_body_bytes),
    }
    return entry | {"typed_per_filter_config": entry["typed_per_filter_config"] | drained}


def _action(route: Route) -> Json:
    action: Json = {
        "timeout": f"{route.total_ms / 1000:g}s",  # unbounded: only pauses in a stream are bounded
        "idle_timeout": f"{route.idle_seconds or IDLE_SECONDS}s",
        "retry_policy": _retries(route),
        **_where(route),
    }
    if route.affinity:
        action["hash_policy"] = [_hash(text) | {"terminal": True} for text in route.affinity]
    if route.pass_through:
        action["auto_host_rewrite"] = True
    return action


def _where(route: Route) -> Json:
    if not route.split:
        return {"cluster": clusters.target(route.upstream, route.fallbacks)}
    shares = [{"name": clusters.target(s.upstream, route.fallbacks), "weight": s.weight} for s in route.split]
    return {"weighted_clusters": {"clusters": shares, **({"use_hash_policy": True} if route.affinity else {})}}


def _retries(route: Route) -> Json:
    policy: Json = {"retry_on": RETRY_ON, "num_retries": 2}
    if route.fallbacks:
        previous = typed(
            "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig", update_frequency=1
        )
        policy = {
            "retry_on": FALL_BACK_ON,
            "retriable_status_codes": FALL_BACK_STATUS,
            "num_retries": len(route.fallbacks),
            "retry_priority": extension("envoy.retry_priorities.previous_priorities", previous),
        }
    # Despite its name it ends with the first response byte: a started response is never retried.
    return policy | ({"per_try_timeout": f"{route.first_byte_ms / 1000:g}s"} if route.first_byte_ms else {})


def _hash(text: str) -> Json:
    kind, _, name = text.partition(":")
    if kind == "header":
        return {"header": {"header_name": name}}
    return {"filter_state": {"key": text if name else filters.KEY_STATE}}


def _notes(route: Route, when_gone: str, *, is_platform: bool) -> Json:
    notes = {"route": route.name, "gone": when_gone, "needs": " or ".join(repr(scope) for scope in route.scopes)}
    if is_platform:
        notes[OWN] = "yes"
    if route.max_body_bytes:
        notes["max_body"] = f"{route.max_body_bytes} bytes"
    return notes


def _bounds(route: Route) -> Json:
    return {cutter.CUTTER: filters.needs(route.scopes, route.max_body_bytes or filters.MAX_BODY_BYTES)}


def _wrong_methods(routes: Sequence[Route]) -> Iterator[Json]:
    """Yield the 405 responses for other methods of a path, last, because a shorter prefix may accept them."""
    paths = {route.path: allowed_methods(route.path, routes) for route in routes} | dict.fromkeys(
        filters.ALIVE, READING
    )
    for path, methods in paths.items():
        if methods:
            match = {"path_separated_prefix": path, "headers": [_methods(methods) | {"invert_match": True}]}
            notes = {NOTES: {"methods": " and ".join(methods)}}
            allow = {"response_headers_to_add": [header("allow", ", ".join(methods))]}
            yield _direct("wrong_method", match, 405) | {"metadata": {"filter_metadata": notes}} | allow


def _encoded(route: Route, headers: list[Json]) -> Json:
    """Return the rejection of compressed bodies, from which no model can be extracted."""
    plain = _matches("content-encoding", {"exact": "identity"}) | {"invert_match": True}
    there = {"name": "content-encoding", "present_match": True}
    accept = {"response_headers_to_add": [header("accept-encoding", "identity")]}
    return _direct("encoded", {"path_separated_prefix": route.path, "headers": [*headers, there, plain]}, 415) | accept


def _nothing(routes: Sequence[Route]) -> Json:
    nothing = _direct("nothing", {"prefix": "/"}, 404)
    asking = [route for route in routes if route.models]
    if asking:  # no other entry may precede them, so that the model is extracted here
        read = body_extraction.read(sorted({route.path for route in asking}), body_extraction.fields(routes))
        max_bytes = max(route.max_body_bytes or READ_BYTES for route in asking)
        nothing["typed_per_filter_config"] |= {**_reads(read), cutter.CUTTER: filters.anybody(max_bytes)}
        nothing["request_body_buffer_limit"] = READ_BYTES
        nothing["metadata"] = {"filter_metadata": {NOTES: {"max_body": f"{max_bytes} bytes"}}}
    return nothing


def _direct(name: str, match: Json, status: int) -> Json:
    return {
        "name": name,
        "match": match,
        "direct_response": {"status": status},
        "typed_per_filter_config": {cutter.CUTTER: filters.anybody()},
    }


def reference(source: Json) -> Json:
    """Return the listener's reference to the route table."""
    return {"route_config_name": NAME, "config_source": source}
