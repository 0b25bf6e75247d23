"""What a route may be that an operator makes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from drw.api.gateway.v1.request_router_pb2 import Route
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.context import SCOPES
from drw.kernel.validation import between, check_name, like, one_of
from drw.routing.request_matching import FOREIGN, IDLE_SECONDS, ITSELF, named

PATH = re.compile(r"(/[A-Za-z0-9_.:~-]+)+")
HEADER = re.compile(r"[a-z0-9-]{1,100}")
TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}(/[a-z0-9][a-z0-9_-]{0,62})?")
FIELD = re.compile(r"[A-Za-z_]{1,64}")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
OURS = ("/api/v1", "/metrics", *ITSELF)
"""Paths that no record can take: whoever took them could lock everybody out."""

MIB = 1 << 20
OPENAI_BODY = 33 * MIB
"""A prompt of 32 MiB with the JSON around it."""

REST_BODY = MIB
REST_IDLE_SECONDS = 120

MAX_PATH = 200
MAX_VALUE = 200
MAX_EACH = {"methods": 7, "models": 100, "headers": 10, "tenants": 50, "split": 16, "fallbacks": 8, "affinity": 4}
MAX_BODY_BYTES = 1024 * MIB
MAX_HELD_BYTES = 40 * MIB
"""The most of a body that must be read before it is known where it goes."""

MAX_IDLE_SECONDS = 3600
MAX_MS = 3_600_000
MAX_WEIGHT = 1000


def check(route: Route, upstreams: Mapping[str, str]) -> None:
    """Return where all is well; `upstreams` are those that there are, with the credential of each.

    Raises:
        InvalidRequest: a field has a wrong value; the message says what would be right.
    """
    _check_where(route)
    check_shape(route, upstreams)
    if text := unlike(route, upstreams):
        raise InvalidRequest(f"fallbacks: {text}", param="fallbacks")


def with_defaults(route: Route) -> Route:
    """Return the route with what it leaves open: who may take it is never left open to all."""
    found = Route()
    found.CopyFrom(route)
    found.origin = "record"
    models = bool(route.models) or route.pass_through
    if models and not route.scopes:
        found.scopes.append("models:invoke")
    if route.models and not route.methods:
        found.methods.append("POST")
    found.max_body_bytes = route.max_body_bytes or (OPENAI_BODY if models else REST_BODY)
    found.idle_seconds = route.idle_seconds or (IDLE_SECONDS if models else REST_IDLE_SECONDS)
    if not found.scopes:
        raise InvalidRequest(f"scopes: one at least; there are: {', '.join(SCOPES)}", param="scopes")
    return found


def check_shape(route: Route, upstreams: Collection[str]) -> None:
    """Do the same for all but the name and the path.

    Raises:
        InvalidRequest: a field has a wrong value; the message says what would be right.
    """
    for field, most in MAX_EACH.items():
        if len(getattr(route, field)) > most:
            raise InvalidRequest(f"{field}: at most {most}", param=field)
    _check_words(route)
    _check_upstreams(route, upstreams)
    _check_numbers(route)
    _check_models(route)


def unlike(route: Route, credentials: Mapping[str, str]) -> str:
    """Return what is wrong with the credentials of a route's upstreams; empty: nothing.

    The data plane decides what it sends before it knows to which upstream of a chain.
    """
    if not route.fallbacks or len({credentials.get(name, "") for name in named(route)}) == 1:
        return ""
    told = ", ".join(f"{name} {credentials.get(name, '') or 'none'!r}" for name in named(route))
    return (
        f"an upstream and its fallbacks must have the same credential, and have: {told}; a managed model fails over "
        "between them instead"
    )


def _check_where(route: Route) -> None:
    check_name(route.name)
    if len(route.path) > MAX_PATH or not PATH.fullmatch(route.path) or {".", ".."} & set(route.path.split("/")):
        raise InvalidRequest(
            f"path is {route.path[:MAX_PATH]!r}; it begins with '/', ends without one, and takes everything below it, "
            "as in '/v1/chat/completions'",
            param="path",
        )
    if any(route.path == own or route.path.startswith(f"{own}/") for own in OURS):
        raise InvalidRequest(f"path is {route.path!r}; what is below {', '.join(OURS)} is the platform's", param="path")


def _check_words(route: Route) -> None:
    for method in route.methods:
        one_of(method, METHODS, "methods")
    for scope in route.scopes:
        one_of(scope, tuple(SCOPES), "scopes")
    for tenant in route.tenants:
        like(tenant, TENANT, "tenants", "an org or a desk, as in 'acme' or 'acme/research'")
    for header in route.headers:
        like(header.name, HEADER, "headers", "a header's name in small letters, as in 'x-team'")
        if header.name.startswith(FOREIGN):
            raise InvalidRequest(f"headers: {header.name!r} is set by the gateway; use tenants", param="headers")
        if header.exact and header.prefix:
            raise InvalidRequest("a header has exact or prefix, not both", param="headers")
        _printable(header.exact + header.prefix, "headers")
    for text in route.affinity:
        _check_affinity(text, route)
    for model in (*route.models, route.upstream_model):
        _printable(model, "models")


def _check_affinity(text: str, route: Route) -> None:
    kind, _, name = text.partition(":")
    good = {"key": not name, "header": bool(HEADER.fullmatch(name)), "body": bool(FIELD.fullmatch(name))}
    if not good.get(kind):
        raise InvalidRequest(
            f"affinity is {text[:80]!r}; it can be 'key', 'header:x-session-id' or 'body:user'", param="affinity"
        )
    if kind == "body" and not (route.models and route.pass_through):
        raise InvalidRequest(
            f"affinity is {text!r}; a body is read only on a route with models and pass_through", param="affinity"
        )


def _check_upstreams(route: Route, upstreams: Collection[str]) -> None:
    if bool(route.upstream) == bool(route.split):
        raise InvalidRequest("a route has either an upstream or a split over several", param="upstream")
    own = [share.upstream for share in route.split] or [route.upstream]
    for name in (*own, *route.fallbacks):
        one_of(name, tuple(sorted(upstreams)), "upstream")
    for names, field in ((own, "split"), (route.fallbacks, "fallbacks")):
        if len(set(names)) != len(names):
            raise InvalidRequest(f"{field}: an upstream is named twice", param=field)
    for share in route.split:
        between(share.weight, 0, MAX_WEIGHT, "split")
    if route.split and not any(share.weight for share in route.split):
        raise InvalidRequest("split: one weight at least is above 0", param="split")


def _check_numbers(route: Route) -> None:
    between(route.max_body_bytes, 0, MAX_BODY_BYTES, "max_body_bytes")
    between(route.idle_seconds, 0, MAX_IDLE_SECONDS, "idle_seconds")
    between(route.first_byte_ms, 0, MAX_MS, "first_byte_ms")
    between(route.total_ms, 0, MAX_MS, "total_ms")
    if 0 < route.total_ms < route.first_byte_ms:
        raise InvalidRequest(
            f"total_ms is {route.total_ms}, less than first_byte_ms, {route.first_byte_ms}", param="total_ms"
        )
    if (route.models or route.pass_through) and route.max_body_bytes > MAX_HELD_BYTES:
        raise InvalidRequest(
            f"max_body_bytes is {route.max_body_bytes}; with models or pass_through it can be at most "
            f"{MAX_HELD_BYTES}, since a body is held until it is read",
            param="max_body_bytes",
        )


def _check_models(route: Route) -> None:
    if route.models and list(route.methods) != ["POST"]:
        raise InvalidRequest("a route with models has the one method POST, since it reads bodies", param="methods")
    if len(set(route.models)) != len(route.models) or not all(route.models):
        raise InvalidRequest("models: each once, and none empty", param="models")
    if route.model_header and len(route.models) != 1:  # else a header names one, and the unread body another
        raise InvalidRequest("model_header needs one model: the only one of its upstream", param="model_header")
    if route.upstream_model and not (route.models and route.pass_through):
        raise InvalidRequest("upstream_model needs models and pass_through", param="upstream_model")
    if route.upstream_model and route.model_header:
        raise InvalidRequest(
            "upstream_model is written into the body, which model_header leaves unread: one of them",
            param="model_header",
        )


def _printable(value: str, field: str) -> None:
    if len(value) > MAX_VALUE or not value.isprintable() or not value.isascii() or value != value.strip():
        raise InvalidRequest(
            f"{field}: {value[:80]!r} has other than 1 to {MAX_VALUE} printable characters", param=field
        )
