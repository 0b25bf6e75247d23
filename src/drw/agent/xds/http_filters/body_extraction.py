"""Body extraction: the model of a request, and the token usage of a response."""

from __future__ import annotations

from collections.abc import Iterable

from drw.agent.xds.builders import Json, extension, header, typed
from drw.agent.xds.http_filters import filters
from drw.agent.xds.http_filters.deny_list import BODY
from drw.api.gateway.v1.request_router_pb2 import Route
from drw.routing.request_matching import MODEL_HEADER

NAMESPACE = BODY
"""Metadata namespace of fields extracted from request bodies."""

USAGE = "drw.usage"
"""The metadata that hold who pays and what an upstream counted: of pass-through requests alone."""

READ = "x-drw-read"
"""The header of a request whose body was read whole; no upstream of others sees it."""

AFFINITY = "body:"
MAX_EVENT_BYTES = 1 << 20
ANY_TYPE = {"google_re2": {}, "regex": ".*"}
ROUTED = ("model", "stream")
COUNTS = {"prompt_tokens": "prompt_tokens", "completion_tokens": "completion_tokens"}
IDENTITY = {"org": "x-drw-org", "desk": "x-drw-desk", "key": "x-drw-key"}

JSON = "envoy.extensions.filters.http.json_to_metadata.v3.JsonToMetadata"
SSE = "envoy.extensions.filters.http.sse_to_metadata.v3.SseToMetadata"
PARSER = "envoy.extensions.content_parsers.json.v3.JsonContentParser"
HEADERS = "envoy.extensions.filters.http.header_to_metadata.v3.Config"
MUTATION = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
TRANSFORM = "envoy.extensions.filters.http.transform.v3.TransformConfig"


def read(paths: Iterable[str], fields: Iterable[str]) -> Json:
    """Return the per-route configuration that extracts fields from bodies on these paths."""
    rules = [
        {"selectors": [{"key": field}], "on_present": {"metadata_namespace": NAMESPACE, "key": field}}
        for field in (*ROUTED, *sorted(fields))
    ]
    parse = typed(
        JSON, request_rules={"rules": rules, "allow_content_types_regex": ANY_TYPE, "allow_empty_content_type": True}
    )
    action = _run(extension("envoy.filters.http.json_to_metadata", parse))
    at = {"header_name": ":path"}
    path = extension("path", typed("envoy.type.matcher.v3.HttpRequestHeaderMatchInput", **at))
    chain_filters = [
        {
            "predicate": {
                "single_predicate": {
                    "input": path,
                    "value_match": {"safe_regex": {"google_re2": {}, "regex": f"{filters.literal(p)}(?:[/?].*)?"}},
                }
            },
            "on_match": {"action": action},
        }
        for p in paths
    ]
    return typed(f"{filters.COMPOSITE}.CompositePerRoute", matcher={"matcher_list": {"matchers": chain_filters}})


def chain(route: Route, *, stream: bool, by_header: bool) -> Json | None:
    """Return the route-specific filter chain, or None."""
    chain_filters = [
        *(_checked_again(route) if route.models else ()),
        *(_passed(route, stream, by_header) if route.pass_through else ()),
    ]
    if not chain_filters:
        return None
    action = typed(f"{filters.COMPOSITE}.ExecuteFilterAction", filter_chain={"typed_config": chain_filters})
    matcher = {"on_no_match": {"action": extension("further", action)}}
    return typed(f"{filters.COMPOSITE}.CompositePerRoute", matcher=matcher)


def fields(routes: Iterable[Route]) -> set[str]:
    """Return the body fields used for session affinity."""
    affinity_fields = (text for route in routes for text in route.affinity if text.startswith(AFFINITY))
    return {text.removeprefix(AFFINITY) for text in affinity_fields}


def _run(filter_chain: Json) -> Json:
    return extension("run", typed(f"{filters.COMPOSITE}.ExecuteFilterAction", typed_config=filter_chain))


def _checked_again(route: Route) -> list[Json]:
    """Return the scope and size checks, repeated because the first route match may have been another route."""
    filter_chain = [extension("envoy.filters.http.rbac", filters.scopes(route.scopes))]
    return [*filter_chain, *([filters.size_limit(route.max_body_bytes)] if route.max_body_bytes else [])]


def _passed(route: Route, stream: bool, by_header: bool) -> list[Json]:
    metadata = [*(_note_affinity(route)), _note_identity(by_header)]
    return [
        *metadata,
        *([] if by_header or not route.models else _rewritten(route, stream)),
        extension("envoy.filters.http.sse_to_metadata", _of_stream()),
        _of_answer(),
    ]


def _note_identity(by_header: bool) -> Json:
    noted = IDENTITY | ({"model": MODEL_HEADER} if by_header else {})
    rules = [
        {"header": header, "on_header_present": {"metadata_namespace": USAGE, "key": key}}
        for key, header in noted.items()
    ]
    return extension("envoy.filters.http.header_to_metadata", typed(HEADERS, request_rules=rules))


def _note_affinity(route: Route) -> list[Json]:
    notes = [
        filters.note(text, f"%DYNAMIC_METADATA({NAMESPACE}:{text.removeprefix(AFFINITY)})%")
        for text in route.affinity
        if text.startswith(AFFINITY)
    ]
    return (
        [extension("envoy.filters.http.set_filter_state", typed(filters.STATE, on_request_headers=notes))]
        if notes
        else []
    )


def _rewritten(route: Route, stream: bool) -> list[Json]:
    """Return the filters that parse a JSON body, rewrite changed fields, and repeat route matching.

    A body that is not a JSON object with unique keys stays on the route that rejects it. The content type is set
    first, because other types are not parsed.
    """
    # A '%' begins a command of Envoy's formats.
    change: Json = {"model": route.upstream_model.replace("%", "%%")} if route.upstream_model else {}
    # Without it an upstream says nothing of what a stream cost.
    change |= {"stream_options": {"include_usage": True}} if stream else {}
    done: Json = {"headers_mutations": [{"append": header(READ, "1")}]}
    done |= {"body_transformation": {"action": "MERGE", "body_format": {"json_format": change}}} if change else {}
    config = typed(TRANSFORM, request_transformation=done, clear_route_cache=True)
    as_json = {"request_mutations": [{"append": header("content-type", "application/json")}]}
    return [
        extension("envoy.filters.http.header_mutation", typed(MUTATION, mutations=as_json)),
        extension("envoy.filters.http.transform", config),
    ]


def _of_answer() -> Json:
    rules = [
        {"selectors": [{"key": "usage"}, {"key": field}], "on_present": _count(key)} for field, key in COUNTS.items()
    ]
    rules_config = {"rules": rules, "allow_content_types": ["application/json", "application/json; charset=utf-8"]}
    return extension("envoy.filters.http.json_to_metadata", typed(JSON, response_rules=rules_config))


def _of_stream() -> Json:
    rules = [
        {"rule": {"selectors": [{"key": "usage"}, {"key": field}], "on_present": _count(key)}}
        for field, key in COUNTS.items()
    ]
    parser = extension("envoy.content_parsers.json", typed(PARSER, rules=rules))
    return typed(SSE, response_rules={"max_event_size": MAX_EVENT_BYTES, "content_parser": parser})


def _count(key: str) -> Json:
    return {"metadata_namespace": USAGE, "key": key, "type": "NUMBER"}
