"""Translation of routes to Envoy's route table: paths, scopes, limits, error messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from drw.agent import native_filter
from drw.agent.xds import clusters
from drw.agent.xds.builders import Json, extension, header, typed
from drw.agent.xds.http_filters import body_extraction, cors, filters
from drw.api.gateway.v1.request_router_pb2 import Configuration, HeaderMatch, Route
from drw.routing.request_matching import (
    IDLE_SECONDS,
    MODEL_HEADER,
    WILDCARD,
    allowed_methods,
    body_read_paths,
    by_precedence,
    is_platform_process,
    path_pattern,
    upstreams_of,
)

NAME = "drw"
ROUTE_METADATA = "drw"
"""Metadata namespace of routes for local replies."""

PLATFORM_MARK = "platform"
"""Marks routes to platform processes."""

RETRY_ON = "connect-failure,reset-before-request,refused-stream"
"""Retry only if nothing was sent, because other failures may have executed the request."""

FALLBACK_ON = f"gateway-error,reset,retriable-status-codes,{RETRY_ON}"
FALLBACK_STATUSES = [429, 500]
"""With fallbacks a request may run twice; configuring them accepts that."""

BODILESS = ("GET", "HEAD", "DELETE", "OPTIONS")
BODY_FILTERS = (filters.BODY, filters.ROUTE_FILTERS)
"""Filters enabled by the first matched route, which must be enabled on every route that may match later."""

INVALID_BODY_STATUS = 422
"""Response code details of an unreadable body, matched by local replies."""
READ_METHODS = ("GET", "HEAD")
BUFFER_BYTES = 64 << 20
"""Buffer limit for request bodies and for responses with usage extraction."""


def route_configuration(configuration: Configuration, origins: Sequence[str] = ()) -> Json:
    """Return the route table: longer prefixes first, rejections last.

    `origins`: allowed CORS origins.
    """
    table = _RouteTable(
        routes=by_precedence(configuration.routes.routes),
        unavailable_messages={upstream.name: upstream.when_gone for upstream in configuration.upstreams.upstreams},
        platform_upstreams={
            upstream.name for upstream in configuration.upstreams.upstreams if is_platform_process(upstream)
        },
    )
    served = [entry for route in table.routes for entry in _entries(route, table)]
    alive = [
        _direct_response("alive", {"path": path, "headers": [_method_matcher(READ_METHODS)]}, 200)
        for path in filters.HEALTH_PATHS
    ]
    fallbacks = [*_method_not_allowed(table.routes), _not_found(table.routes)]
    has_cors = bool(origins and table.unavailable_messages)
    preflights = [cors.preflight(next(iter(table.unavailable_messages)))] if has_cors else []
    host: Json = {"name": NAME, "domains": ["*"], "matcher": _path_matcher([*preflights, *alive, *served, *fallbacks])}
    if has_cors:
        host |= cors.policy(origins)
    if enabled := _enabled_filters(configuration):
        host["typed_per_filter_config"] = host.get("typed_per_filter_config", {}) | enabled
    return typed("envoy.config.route.v3.RouteConfiguration", name=NAME, virtual_hosts=[host])


def entries(host: Json) -> list[Json]:
    """Return the entries of a virtual host; an entry may occur several times."""
    match = host.get("matcher", {})
    paths = match.get("matcher_tree", {}).get("prefix_match_map", {}).get("map", {})
    actions = [*paths.values(), *([match["on_no_match"]] if match else [])]
    route_lists = [action["action"]["typed_config"]["routes"] for action in actions]
    return [entry for route_list in (host.get("routes", []), *route_lists) for entry in route_list]


def _path_matcher(table: Sequence[Json]) -> Json:
    """Return the prefix matcher that selects the entries of a path.

    Envoy tries entries one by one, and evaluates an entry's headers before its path.
    """
    paths = sorted({path for entry in table if (path := _path(entry))})
    by_prefix = {path: _route_list(entry for entry in table if path.startswith(_path(entry))) for path in paths}
    path_header = typed("envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name=":path")
    matcher = {"input": extension("path", path_header), "prefix_match_map": {"map": by_prefix}}
    return {"matcher_tree": matcher, "on_no_match": _route_list(entry for entry in table if not _path(entry))}


def _path(entry: Json) -> str:
    """Return the path of an entry, or "" if it applies to all paths or to a pattern."""
    match = entry["match"]
    return str(match.get("path_separated_prefix") or match.get("path") or "")


def _route_list(table: Iterable[Json]) -> Json:
    return {"action": extension("routes", typed("envoy.config.route.v3.RouteList", routes=list(table)))}


def _enabled_filters(configuration: Configuration) -> Json:
    """Return the filters enabled for every request."""
    credentials = configuration.credentials
    names = [filters.IDENTITY] if credentials.issuers or credentials.certificates else []
    names += [filters.REROUTE, *BODY_FILTERS] if any(map(_depends_on_caller, configuration.routes.routes)) else []
    return dict.fromkeys(names, filters.enabled())


@dataclass(frozen=True, slots=True)
class _RouteTable:
    routes: Sequence[Route]
    unavailable_messages: Mapping[str, str]
    """Error message while an upstream does not answer."""
    platform_upstreams: Set[str]
    """Upstreams that are platform processes."""


def _depends_on_caller(route: Route) -> bool:
    """Return whether route matching depends on the caller, whose headers are set by filters."""
    return bool(route.tenants or route.headers or "key" in route.affinity)


def _entries(route: Route, table: _RouteTable) -> Iterator[Json]:
    for headers in _caller_matchers(route):
        for method in route.methods or [""]:
            matchers = [*([_string_matcher(":method", {"exact": method})] if method else []), *headers]
            if route.models:
                yield from _model_entries(route, table, matchers)
            else:
                yield from _entries_by_size(
                    _entry(route, table, matchers, _body_extraction(route, table.routes)), method, route
                )


def _model_entries(route: Route, table: _RouteTable, headers: list[Json]) -> Iterator[Json]:
    """Yield the entries of a route that matches on models. All but the first match only after the body was read."""
    if route.model_header:
        pattern = "|".join(re.escape(model) for model in sorted(route.models))
        matchers = [*headers, _string_matcher(MODEL_HEADER, {"safe_regex": _regex(pattern)})]
        yield from _entries_by_size(_entry(route, table, matchers, by_header=True), "POST", route)
    yield _reject_encoded(route, headers)
    values = [{"string_match": {"exact": model}} for model in sorted(route.models)]
    model = _metadata_matcher("model", {"or_match": {"value_matchers": [*values, *values[:1]]}})  # at least two
    entry = _entry(route, table, headers)
    if route.pass_through:
        stream = _entry(route, table, headers, stream=True)
        yield from _buffered_entries(
            stream | {"match": stream["match"] | {"dynamic_metadata": [model, *_stream_requested()]}}
        )
        yield from _buffered_entries(entry | {"match": entry["match"] | {"dynamic_metadata": [model]}})
    else:
        yield entry | {"match": entry["match"] | {"dynamic_metadata": [model]}}


def _buffered_entries(entry: Json) -> Iterator[Json]:
    """Yield the entry for buffered bodies, preceded by the one that buffers or rejects them."""
    body_read = {"name": body_extraction.BODY_READ_HEADER, "present_match": True}
    yield entry | {"match": entry["match"] | {"headers": [*entry["match"]["headers"], body_read]}}
    yield {k: v for k, v in entry.items() if k != "route"} | {"direct_response": {"status": INVALID_BODY_STATUS}}


def _metadata_matcher(field: str, value: Json) -> Json:
    return {"filter": body_extraction.NAMESPACE, "path": [{"key": field}], "value": value}


def _stream_requested() -> list[Json]:
    """Any value but false, because some upstreams accept 1 or "true"."""
    falsy: list[Json] = [{"bool_match": False}, {"null_match": {}}]
    return [
        _metadata_matcher("stream", {"present_match": True}),
        *(_metadata_matcher("stream", value) | {"invert": True} for value in falsy),
    ]


def _entries_by_size(entry: Json, method: str, route: Route) -> Iterator[Json]:
    if method not in BODILESS and 0 < route.max_body_bytes < filters.MAX_DRAINED_BYTES:
        yield _declared_size_entry(entry, route.max_body_bytes)
        yield _drained_entry(entry, route)
    else:
        yield entry


def _entry(
    route: Route,
    table: _RouteTable,
    headers: list[Json],
    extraction: Json | None = None,
    *,
    stream: bool = False,
    by_header: bool = False,
) -> Json:
    access = filters.access_config(route.scopes, route.max_body_bytes or filters.MAX_BODY_BYTES)
    filter_configs = {native_filter.NATIVE_FILTER: access, **(extraction or {})}
    is_platform = table.platform_upstreams >= set(upstreams_of(route))
    if (route_filters := body_extraction.route_filters(route, stream=stream, by_header=by_header)) is not None:
        filter_configs[filters.ROUTE_FILTERS] = route_filters
    needs_body = bool(extraction) or bool(route.models) or route.pass_through
    return {
        "name": route.name,
        "match": {**_path_match(route.path), "headers": headers},
        "route": _action(route),
        "metadata": {
            "filter_metadata": {
                ROUTE_METADATA: _route_metadata(
                    route, table.unavailable_messages[clusters.primary_upstream(route)], is_platform=is_platform
                )
            }
        },
        "typed_per_filter_config": filter_configs,
        **({"request_body_buffer_limit": BUFFER_BYTES} if needs_body else {}),
    }


def _path_match(path: str) -> Json:
    return {"safe_regex": _regex(path_pattern(path))} if WILDCARD in path else {"path_separated_prefix": path}


def _caller_matchers(route: Route) -> Iterator[list[Json]]:
    header_matchers = [_header_matcher(condition) for condition in route.headers]
    for tenant in route.tenants or [""]:
        org, _, desk = tenant.partition("/")
        identity = {"x-drw-org": org, "x-drw-desk": desk}
        yield [
            *(_string_matcher(name, {"exact": value}) for name, value in identity.items() if value),
            *header_matchers,
        ]


def _method_matcher(methods: Sequence[str]) -> Json:
    return _string_matcher(":method", {"safe_regex": _regex("|".join(methods))})


def _header_matcher(condition: HeaderMatch) -> Json:
    if condition.exact or condition.prefix:
        return _string_matcher(
            condition.name, {"exact": condition.exact} if condition.exact else {"prefix": condition.prefix}
        )
    return {"name": condition.name, "present_match": True}


def _string_matcher(name: str, value: Json) -> Json:
    return {"name": name, "string_match": value}


def _regex(text: str) -> Json:
    return {"google_re2": {}, "regex": text}


def _body_extraction(route: Route, routes: Sequence[Route]) -> Json:
    paths = body_read_paths(route, routes)
    return (
        _enable_extraction(body_extraction.extract_fields(paths, body_extraction.affinity_fields(routes)))
        if paths
        else {}
    )


def _enable_extraction(extraction: Json) -> Json:
    return {filters.BODY: extraction, filters.ROUTE_FILTERS: filters.enabled()}


def _declared_size_entry(entry: Json, max_bytes: int) -> Json:
    """Return the entry for bodies with a content-length within the limit."""
    length = {"name": "content-length", "range_match": {"start": "0", "end": str(max_bytes + 1)}}
    return entry | {"match": entry["match"] | {"headers": [*entry["match"]["headers"], length]}}


def _drained_entry(entry: Json, route: Route) -> Json:
    """Return the entry for bodies that are too large or of unknown size. They are read before the rejection.

    Otherwise the connection would be reset while the client is sending, and many clients would miss the response.
    """
    filter_configs = {
        native_filter.NATIVE_FILTER: filters.access_config(route.scopes, filters.UNBOUNDED),
        filters.DRAIN: filters.drain_config(),
        filters.BODY_SIZE: filters.body_size_config(route.max_body_bytes),
    }
    return entry | {"typed_per_filter_config": entry["typed_per_filter_config"] | filter_configs}


def _action(route: Route) -> Json:
    action: Json = {
        "timeout": f"{route.total_ms / 1000:g}s",  # 0: no limit, only pauses in a stream are limited
        "idle_timeout": f"{route.idle_seconds or IDLE_SECONDS}s",
        "retry_policy": _retry_policy(route),
        **_target(route),
    }
    if route.affinity:
        action["hash_policy"] = [_hash_policy(text) | {"terminal": True} for text in route.affinity]
    if route.pass_through:
        action["auto_host_rewrite"] = True
    return action


def _target(route: Route) -> Json:
    if not route.split:
        return {"cluster": clusters.aggregate_name(route.upstream, route.fallbacks)}
    shares = [{"name": clusters.aggregate_name(s.upstream, route.fallbacks), "weight": s.weight} for s in route.split]
    return {"weighted_clusters": {"clusters": shares, **({"use_hash_policy": True} if route.affinity else {})}}


def _retry_policy(route: Route) -> Json:
    policy: Json = {"retry_on": RETRY_ON, "num_retries": 2}
    if route.fallbacks:
        previous = typed(
            "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig", update_frequency=1
        )
        policy = {
            "retry_on": FALLBACK_ON,
            "retriable_status_codes": FALLBACK_STATUSES,
            "num_retries": len(route.fallbacks),
            "retry_priority": extension("envoy.retry_priorities.previous_priorities", previous),
        }
    # Despite its name it ends with the first response byte: a started response is never retried.
    return policy | ({"per_try_timeout": f"{route.first_byte_ms / 1000:g}s"} if route.first_byte_ms else {})


def _hash_policy(text: str) -> Json:
    kind, _, name = text.partition(":")
    if kind == "header":
        return {"header": {"header_name": name}}
    return {"filter_state": {"key": text if name else filters.KEY_STATE}}


def _route_metadata(route: Route, unavailable_message: str, *, is_platform: bool) -> Json:
    metadata = {
        "route": route.name,
        "gone": unavailable_message,
        "needs": " or ".join(repr(scope) for scope in route.scopes),
    }
    if is_platform:
        metadata[PLATFORM_MARK] = "yes"
    if route.max_body_bytes:
        metadata["max_body"] = f"{route.max_body_bytes} bytes"
    return metadata


def _method_not_allowed(routes: Sequence[Route]) -> Iterator[Json]:
    """Yield the 405 responses for other methods of a path, last, because a shorter prefix may accept them."""
    paths = {route.path: allowed_methods(route.path, routes) for route in routes} | dict.fromkeys(
        filters.HEALTH_PATHS, READ_METHODS
    )
    for path, methods in paths.items():
        if methods:
            match = {**_path_match(path), "headers": [_method_matcher(methods) | {"invert_match": True}]}
            metadata = {ROUTE_METADATA: {"methods": " and ".join(methods)}}
            allow = {"response_headers_to_add": [header("allow", ", ".join(methods))]}
            yield _direct_response("wrong_method", match, 405) | {"metadata": {"filter_metadata": metadata}} | allow


def _reject_encoded(route: Route, headers: list[Json]) -> Json:
    """Return the rejection of compressed bodies, from which no model can be extracted."""
    not_identity = _string_matcher("content-encoding", {"exact": "identity"}) | {"invert_match": True}
    has_encoding = {"name": "content-encoding", "present_match": True}
    accept = {"response_headers_to_add": [header("accept-encoding", "identity")]}
    return (
        _direct_response(
            "encoded", {"path_separated_prefix": route.path, "headers": [*headers, has_encoding, not_identity]}, 415
        )
        | accept
    )


def _not_found(routes: Sequence[Route]) -> Json:
    entry = _direct_response("nothing", {"prefix": "/"}, 404)
    model_routes = [route for route in routes if route.models]
    if model_routes:  # no other entry may precede them, so that the model is extracted here
        extraction = body_extraction.extract_fields(
            sorted({route.path for route in model_routes}), body_extraction.affinity_fields(routes)
        )
        max_bytes = max(route.max_body_bytes or BUFFER_BYTES for route in model_routes)
        entry["typed_per_filter_config"] |= {
            **_enable_extraction(extraction),
            native_filter.NATIVE_FILTER: filters.public_config(max_bytes),
        }
        entry["request_body_buffer_limit"] = BUFFER_BYTES
        entry["metadata"] = {"filter_metadata": {ROUTE_METADATA: {"max_body": f"{max_bytes} bytes"}}}
    return entry


def _direct_response(name: str, match: Json, status: int) -> Json:
    return {
        "name": name,
        "match": match,
        "direct_response": {"status": status},
        "typed_per_filter_config": {native_filter.NATIVE_FILTER: filters.public_config()},
    }


def reference(source: Json) -> Json:
    """Return the listener's reference to the route table."""
    return {"route_config_name": NAME, "config_source": source}
