"""Body extraction: the model of a request, and the token usage of a response."""

from __future__ import annotations

import re
from collections.abc import Iterable

from drw.agent.xds.builders import Json, extension, header, typed
from drw.agent.xds.http_filters import filters
from drw.agent.xds.http_filters.deny_list import BODY_METADATA
from drw.api.gateway.v1.request_router_pb2 import Route
from drw.routing.request_matching import MODEL_HEADER

NAMESPACE = BODY_METADATA
"""Metadata namespace of fields extracted from request bodies."""

USAGE_METADATA = "drw.usage"
"""Metadata namespace of the caller and of the token usage, for pass-through requests only."""

BODY_READ_HEADER = "x-drw-read"
"""Header of a request whose body was parsed. Third-party upstreams do not receive it."""

BODY_AFFINITY = "body:"
MAX_EVENT_BYTES = 1 << 20
ANY_TYPE = {"google_re2": {}, "regex": ".*"}
ROUTING_FIELDS = ("model", "stream")
TOKEN_FIELDS = {"prompt_tokens": "prompt_tokens", "completion_tokens": "completion_tokens"}
IDENTITY_HEADERS = {"org": "x-drw-org", "desk": "x-drw-desk", "key": "x-drw-key"}

JSON = "envoy.extensions.filters.http.json_to_metadata.v3.JsonToMetadata"
SSE = "envoy.extensions.filters.http.sse_to_metadata.v3.SseToMetadata"
PARSER = "envoy.extensions.content_parsers.json.v3.JsonContentParser"
HEADERS = "envoy.extensions.filters.http.header_to_metadata.v3.Config"
MUTATION = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
TRANSFORM = "envoy.extensions.filters.http.transform.v3.TransformConfig"


def extract_fields(paths: Iterable[str], affinity_fields: Iterable[str]) -> Json:
    """Return the per-route configuration that extracts fields from bodies on these paths."""
    rules = [
        {"selectors": [{"key": field}], "on_present": {"metadata_namespace": NAMESPACE, "key": field}}
        for field in (*ROUTING_FIELDS, *sorted(affinity_fields))
    ]
    parse = typed(
        JSON, request_rules={"rules": rules, "allow_content_types_regex": ANY_TYPE, "allow_empty_content_type": True}
    )
    run = typed(
        f"{filters.COMPOSITE}.ExecuteFilterAction", typed_config=extension("envoy.filters.http.json_to_metadata", parse)
    )
    action = extension("run", run)
    path_header = {"header_name": ":path"}
    path = extension("path", typed("envoy.type.matcher.v3.HttpRequestHeaderMatchInput", **path_header))
    matchers = [
        {
            "predicate": {
                "single_predicate": {
                    "input": path,
                    "value_match": {"safe_regex": {"google_re2": {}, "regex": f"{re.escape(p)}(?:[/?].*)?"}},
                }
            },
            "on_match": {"action": action},
        }
        for p in paths
    ]
    return typed(f"{filters.COMPOSITE}.CompositePerRoute", matcher={"matcher_list": {"matchers": matchers}})


def route_filters(route: Route, *, stream: bool, by_header: bool) -> Json | None:
    """Return the route-specific filters, or None."""
    chain_filters = [
        *(_repeated_checks(route) if route.models else ()),
        *(_pass_through_filters(route, stream, by_header) if route.pass_through else ()),
    ]
    if not chain_filters:
        return None
    action = typed(f"{filters.COMPOSITE}.ExecuteFilterAction", filter_chain={"typed_config": chain_filters})
    matcher = {"on_no_match": {"action": extension("further", action)}}
    return typed(f"{filters.COMPOSITE}.CompositePerRoute", matcher=matcher)


def affinity_fields(routes: Iterable[Route]) -> set[str]:
    """Return the body fields used for session affinity."""
    affinities = (text for route in routes for text in route.affinity if text.startswith(BODY_AFFINITY))
    return {text.removeprefix(BODY_AFFINITY) for text in affinities}


def _repeated_checks(route: Route) -> list[Json]:
    """Return the scope and size checks, repeated because the first route match may have been another route."""
    scope_check = [extension("envoy.filters.http.rbac", filters.scope_filter(route.scopes))]
    return [*scope_check, *([filters.size_limit(route.max_body_bytes)] if route.max_body_bytes else [])]


def _pass_through_filters(route: Route, stream: bool, by_header: bool) -> list[Json]:
    metadata = [*(_affinity_state(route)), _identity_to_metadata(by_header)]
    return [
        *metadata,
        *([] if by_header or not route.models else _rewrite_body(route, stream)),
        extension("envoy.filters.http.sse_to_metadata", _stream_usage()),
        _response_usage(),
    ]


def _identity_to_metadata(by_header: bool) -> Json:
    headers = IDENTITY_HEADERS | ({"model": MODEL_HEADER} if by_header else {})
    rules = [
        {"header": header, "on_header_present": {"metadata_namespace": USAGE_METADATA, "key": key}}
        for key, header in headers.items()
    ]
    return extension("envoy.filters.http.header_to_metadata", typed(HEADERS, request_rules=rules))


def _affinity_state(route: Route) -> list[Json]:
    states = [
        filters.filter_state(text, f"%DYNAMIC_METADATA({NAMESPACE}:{text.removeprefix(BODY_AFFINITY)})%")
        for text in route.affinity
        if text.startswith(BODY_AFFINITY)
    ]
    return (
        [extension("envoy.filters.http.set_filter_state", typed(filters.STATE, on_request_headers=states))]
        if states
        else []
    )


def _rewrite_body(route: Route, stream: bool) -> list[Json]:
    """Return the filters that parse a JSON body, rewrite changed fields, and repeat route matching.

    A body that is not a JSON object with unique keys stays on the route that rejects it. The content type is set
    first, because other types are not parsed.
    """
    # In Envoy's formats '%' starts a command.
    changes: Json = {"model": route.upstream_model.replace("%", "%%")} if route.upstream_model else {}
    # Without it an upstream does not report the usage of a stream.
    changes |= {"stream_options": {"include_usage": True}} if stream else {}
    transformation: Json = {"headers_mutations": [{"append": header(BODY_READ_HEADER, "1")}]}
    transformation |= (
        {"body_transformation": {"action": "MERGE", "body_format": {"json_format": changes}}} if changes else {}
    )
    config = typed(TRANSFORM, request_transformation=transformation, clear_route_cache=True)
    as_json = {"request_mutations": [{"append": header("content-type", "application/json")}]}
    return [
        extension("envoy.filters.http.header_mutation", typed(MUTATION, mutations=as_json)),
        extension("envoy.filters.http.transform", config),
    ]


def _response_usage() -> Json:
    rules = [
        {"selectors": [{"key": "usage"}, {"key": field}], "on_present": _usage_field(key)}
        for field, key in TOKEN_FIELDS.items()
    ]
    rules_config = {"rules": rules, "allow_content_types": ["application/json", "application/json; charset=utf-8"]}
    return extension("envoy.filters.http.json_to_metadata", typed(JSON, response_rules=rules_config))


def _stream_usage() -> Json:
    rules = [
        {"rule": {"selectors": [{"key": "usage"}, {"key": field}], "on_present": _usage_field(key)}}
        for field, key in TOKEN_FIELDS.items()
    ]
    parser = extension("envoy.content_parsers.json", typed(PARSER, rules=rules))
    return typed(SSE, response_rules={"max_event_size": MAX_EVENT_BYTES, "content_parser": parser})


def _usage_field(key: str) -> Json:
    return {"metadata_namespace": USAGE_METADATA, "key": key, "type": "NUMBER"}
