"""Cross-origin requests (CORS): the web origins whose pages may call the data plane from a browser."""

from __future__ import annotations

from collections.abc import Sequence

from drw.agent.xds.builders import Json, extension, header, typed

FILTER = "envoy.filters.http.cors"
CORS = "envoy.extensions.filters.http.cors.v3"

METHODS = "GET, POST, PUT, PATCH, DELETE"
OPENAI_CLIENT_HEADERS = (
    "arch",
    "helper-method",
    "lang",
    "os",
    "package-version",
    "retry-count",
    "runtime",
    "runtime-version",
    "timeout",
)
"""Suffixes of the `x-stainless-` headers that OpenAI's client for JavaScript sends."""
REQUEST_HEADERS = (
    *("authorization", "x-api-key", "anthropic-version", "anthropic-beta"),
    *("content-type", "idempotency-key", "last-event-id", "x-model", "x-session-id"),
    *("openai-organization", "openai-project", "traceparent", "tracestate"),
    *(f"x-stainless-{name}" for name in OPENAI_CLIENT_HEADERS),
)
RESPONSE_HEADERS = (
    *("retry-after", "ratelimit", "ratelimit-policy", "x-drw-model", "request-id", "x-request-id", "x-trace-id"),
    *(f"x-ratelimit-{field}-{unit}" for unit in ("requests", "tokens") for field in ("limit", "remaining", "reset")),
)
MAX_AGE = "600"


def cors() -> Json:
    """Return the filter, which answers preflights. It runs before authentication, because preflights have no key."""
    return extension(FILTER, typed(f"{CORS}.Cors"))


def preflight(cluster: str) -> Json:
    """Return the route of preflights. The filter answers all of them, but needs a route with a cluster."""
    required_headers = ("origin", "access-control-request-method")
    headers: list[Json] = [{"name": ":method", "string_match": {"exact": "OPTIONS"}}]
    headers += [{"name": name, "present_match": True} for name in required_headers]
    return {"name": "preflight", "match": {"prefix": "/", "headers": headers}, "route": {"cluster": cluster}}


def policy(origins: Sequence[str]) -> Json:
    """Return the CORS policy of the virtual host: these origins, without credentials such as cookies."""
    allowed = [{"safe_regex": {"regex": ".*"}} if origin == "*" else {"exact": origin} for origin in origins]
    message = typed(
        f"{CORS}.CorsPolicy",
        filter_enabled={"default_value": {"numerator": 100}},
        allow_origin_string_match=allowed,
        allow_methods=METHODS,
        allow_headers=", ".join(REQUEST_HEADERS),
        expose_headers=", ".join(RESPONSE_HEADERS),
        max_age=MAX_AGE,
        allow_credentials=False,
        forward_not_matching_preflights=False,
    )
    vary = header("vary", "origin", "APPEND_IF_EXISTS_OR_ADD")
    return {"typed_per_filter_config": {FILTER: message}, "response_headers_to_add": [vary]}
