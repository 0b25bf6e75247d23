"""Validation of routes across fields; the rules of single fields are in the contract."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from drw.api.gateway.v1.request_router_pb2 import Route
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.context import SCOPES
from drw.kernel.validation import check_choice, validate
from drw.routing.request_matching import IDLE_SECONDS, OWN_PATHS, PLATFORM_HEADERS, upstreams_of

RESERVED_PATHS = ("/api/v1", "/metrics", *OWN_PATHS)
"""Paths that operators' routes cannot use, since such a route could lock out all callers."""

MIB = 1 << 20
OPENAI_BODY = 33 * MIB
"""A prompt of 32 MiB with its JSON."""

REST_BODY = MIB
REST_IDLE_SECONDS = 120

MAX_BUFFERED_BYTES = 40 * MIB
"""Maximum body size if the body is read for routing."""


def check(route: Route, upstreams: Mapping[str, str]) -> None:
    """Check a route that an operator sets; `upstreams` are the existing ones with their credentials.

    Raises:
        InvalidRequest: a field is invalid; the message says what would be right.
    """
    validate(route)
    _check_path(route.path)
    check_fields(route, upstreams)
    if conflict := credential_conflict(route, upstreams):
        raise InvalidRequest(f"fallbacks: {conflict}", param="fallbacks")


def with_defaults(route: Route) -> Route:
    """Return the route with defaults; scopes never default to all callers."""
    complete = Route()
    complete.CopyFrom(route)
    complete.origin = "record"
    calls_models = bool(route.models) or route.pass_through
    if calls_models and not route.scopes:
        complete.scopes.append("models:invoke")
    if route.models and not route.methods:
        complete.methods.append("POST")
    complete.max_body_bytes = route.max_body_bytes or (OPENAI_BODY if calls_models else REST_BODY)
    complete.idle_seconds = route.idle_seconds or (IDLE_SECONDS if calls_models else REST_IDLE_SECONDS)
    if not complete.scopes:
        raise InvalidRequest(f"scopes is empty; give at least one of: {', '.join(SCOPES)}", param="scopes")
    return complete


def check_fields(route: Route, upstreams: Collection[str]) -> None:
    """Check a route across its fields; `upstreams` are the names of existing upstreams.

    Raises:
        InvalidRequest: fields contradict each other; the message says what would be right.
    """
    _check_headers(route)
    _check_upstreams(route, upstreams)
    _check_sizes(route)
    _check_models(route)


def credential_conflict(route: Route, credentials: Mapping[str, str]) -> str:
    """Return an error if a route's upstreams have different credentials; empty: no error.

    The data plane sets the credential before it selects an upstream.
    """
    if not route.fallbacks or len({credentials.get(name, "") for name in upstreams_of(route)}) == 1:
        return ""
    credentials_of = ", ".join(f"{name} {credentials.get(name, '') or 'none'!r}" for name in upstreams_of(route))
    return (
        f"an upstream and its fallbacks must have the same credential, and have: {credentials_of}; "
        "a managed model fails over between them instead"
    )


def _check_path(path: str) -> None:
    if {".", ".."} & set(path.split("/")):
        raise InvalidRequest(f"path is {path!r}; it cannot have the segments '.' and '..'", param="path")
    if any(path == reserved or path.startswith(f"{reserved}/") for reserved in RESERVED_PATHS):
        raise InvalidRequest(
            f"path is {path!r}; paths below {', '.join(RESERVED_PATHS)} belong to the platform", param="path"
        )


def _check_headers(route: Route) -> None:
    for header in route.headers:
        if header.name.startswith(PLATFORM_HEADERS):
            raise InvalidRequest(f"headers has {header.name!r}, which the gateway sets; use tenants", param="headers")
        if header.exact and header.prefix:
            raise InvalidRequest(f"the header {header.name!r} has exact and prefix; give one of them", param="headers")
    for affinity in route.affinity:
        if affinity.startswith("body:") and not (route.models and route.pass_through):
            raise InvalidRequest(
                f"affinity is {affinity!r}; only a route with models and pass_through reads a body", param="affinity"
            )


def _check_upstreams(route: Route, upstreams: Collection[str]) -> None:
    if bool(route.upstream) == bool(route.split):
        raise InvalidRequest("a route has either an upstream or a split over several", param="upstream")
    primary = [share.upstream for share in route.split] or [route.upstream]
    for name in (*primary, *route.fallbacks):
        check_choice(name, tuple(sorted(upstreams)), "upstream")
    if len(set(primary)) != len(primary):
        raise InvalidRequest("split names an upstream twice; give it once, with the sum of the weights", param="split")
    if route.split and not any(share.weight for share in route.split):
        raise InvalidRequest("split has no weight above 0; at least one upstream needs one", param="split")


def _check_sizes(route: Route) -> None:
    if 0 < route.total_ms < route.first_byte_ms:
        raise InvalidRequest(
            f"total_ms is {route.total_ms}, less than first_byte_ms, {route.first_byte_ms}", param="total_ms"
        )
    if (route.models or route.pass_through) and route.max_body_bytes > MAX_BUFFERED_BYTES:
        raise InvalidRequest(
            f"max_body_bytes is {route.max_body_bytes}; with models or pass_through it can be at most "
            f"{MAX_BUFFERED_BYTES}, since a body is buffered until it is read",
            param="max_body_bytes",
        )


def _check_models(route: Route) -> None:
    if route.models and list(route.methods) != ["POST"]:
        raise InvalidRequest("a route with models has the one method POST, since it reads bodies", param="methods")
    if route.model_header and len(route.models) != 1:  # else the header and the unread body could name different models
        raise InvalidRequest("model_header needs one model: the only one of its upstream", param="model_header")
    if route.upstream_model and not (route.models and route.pass_through):
        raise InvalidRequest("upstream_model needs models and pass_through", param="upstream_model")
    if route.upstream_model and route.model_header:
        raise InvalidRequest(
            "upstream_model is written into the body, which model_header leaves unread: one of them",
            param="model_header",
        )
