"""The HTTP filter chain of a request, in order.

strip (early) > keys > identity > reroute > native filter > deny list > drain > sizes > body > models > route filters >
router.
The native filter checks tokens, limits, scopes and sizes. Dynamic filters are delivered separately.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from drw.agent import native_filter
from drw.agent.native_filter import MODULE, NATIVE_FILTER
from drw.agent.xds.builders import Json, extension, typed
from drw.agent.xds.http_filters.deny_list import BLOCKED, MODELS, RBAC
from drw.api.gateway.v1.authentication_pb2 import Credentials
from drw.routing.request_matching import OWN_PATHS, PLATFORM_HEADERS

DRAIN = "envoy.filters.http.buffer"
BODY_SIZE = "drw.sizes"
KEYS = "drw.keys"
IDENTITY = "drw.identity"
REROUTE = "drw.reroute"
BODY = "drw.body"
ROUTE_FILTERS = "drw.route_filters"
ROUTER = "envoy.filters.http.router"

JWT = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
COMPOSITE = "envoy.extensions.filters.http.composite.v3"
LUA = "envoy.extensions.filters.http.lua.v3.Lua"
STATE = "envoy.extensions.filters.http.set_filter_state.v3.Config"
KEY_STATE = "drw.key"

DISCOVERED = {IDENTITY: LUA, KEYS: JWT, BLOCKED: RBAC, MODELS: RBAC, NATIVE_FILTER: MODULE}
"""Filters delivered separately, with their types."""

DISABLED_BY_DEFAULT = (IDENTITY,)
"""Filters disabled by default and enabled per route."""

PROVIDER = "drw"
HEALTH_PATHS = tuple(OWN_PATHS)
"""Public health paths."""
MAX_BODY_BYTES = 1 << 30
"""Maximum body size of any route."""

UNBOUNDED = 1 << 62
"""Size limit of the native filter on routes that buffer the body and check its size afterwards."""

MAX_DRAINED_BYTES = 48 << 20
"""Bytes of an oversized body that are read before the rejection."""

CLAIM_HEADERS = {
    "x-drw-org": "org",
    "x-drw-desk": "desk",
    "x-drw-key": "sub",
    "x-drw-scopes": "scope",
    "x-drw-walls": "walls",
}
"""Header of each key claim, as read by `drw.kernel.rpc.context.Principal.from_headers`."""

ISSUER = "drw.issuer."
"""Metadata key prefix of issuer token payloads, followed by the issuer name."""

BAD_HEADER = "token_header"
"""Response code details of a token rejected for its JOSE header (token_header.c), matched by local replies."""

SEVERAL_TOKENS = "several_tokens"
"""Response code details of a request with tokens in both headers (filter.c), matched by local replies."""

SCHEMES = ("Bearer", "bearer")
API_KEY_HEADER = "x-api-key"
"""The header of Anthropic's clients with the key, without a scheme."""
CLOCK_SKEW_SECONDS = 10
JWT_CACHE_SIZE = 10_000


def strip() -> Json:
    """Return the extension that strips reserved client headers before route matching."""
    removals = [{"remove_on_match": {"key_matcher": {"prefix": p, "ignore_case": True}}} for p in PLATFORM_HEADERS]
    message = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    return extension("envoy.http.early_header_mutation.header_mutation", typed(message, mutations=removals))


def reroute_by_caller() -> Json:
    """Return the filter that records the verified key and repeats route matching.

    It is enabled only for routes that match on the caller, because route matching costs more than most filters.
    """
    caller = filter_state(KEY_STATE, "%REQ(X-DRW-KEY)%")
    return extension(REROUTE, typed(STATE, clear_route_cache=True, on_request_headers=[caller])) | {"disabled": True}


def enabled() -> Json:
    """Return the per-route configuration that enables a disabled filter."""
    return typed("envoy.config.route.v3.FilterConfig", config={})


def filter_state(state: str, text: str) -> Json:
    """Return the configuration that stores a value for hash policies."""
    return {
        "object_key": state,
        "factory_key": "envoy.hashable_string",
        "format_string": {"text_format_source": {"inline_string": text}, "omit_empty_values": True},
        "skip_if_empty": True,
    }


def body() -> Json:
    """Return the filter that extracts routing fields from bodies, disabled by default."""
    return extension(BODY, typed(f"{COMPOSITE}.Composite")) | {"disabled": True}


def route_filters() -> Json:
    """Return the composite filter for route-specific filters, after the final route match."""
    return extension(ROUTE_FILTERS, typed(f"{COMPOSITE}.Composite")) | {"disabled": True}


def drain() -> Json:
    """Return the buffer filter, disabled by default."""
    message = typed("envoy.extensions.filters.http.buffer.v3.Buffer", max_request_bytes=MAX_DRAINED_BYTES)
    return extension(DRAIN, message) | {"disabled": True}


def drain_config() -> Json:
    """Return the per-route configuration that buffers whole bodies."""
    return typed(
        "envoy.extensions.filters.http.buffer.v3.BufferPerRoute", buffer={"max_request_bytes": MAX_DRAINED_BYTES}
    )


def body_size_filter() -> Json:
    """Return the filter that rejects an oversized body after buffering, disabled by default."""
    return extension(BODY_SIZE, typed(f"{COMPOSITE}.Composite")) | {"disabled": True}


def body_size_config(size: int) -> Json:
    """Return the per-route configuration with the maximum size of buffered bodies."""
    action = typed(f"{COMPOSITE}.ExecuteFilterAction", typed_config=size_limit(size))
    return typed(f"{COMPOSITE}.CompositePerRoute", matcher={"on_no_match": {"action": extension("bound", action)}})


def keys(credentials: Credentials) -> Json:
    """Return the filter that verifies API keys and issuer tokens, and copies key claims to headers."""
    platform_provider = _jwt_provider(credentials.issuer, [credentials.audience], credentials.jwks) | {
        "claim_to_headers": [{"header_name": h, "claim_name": c} for h, c in CLAIM_HEADERS.items()],
    }
    # Tokens without an expiry would be valid forever.
    issuers = {
        f"{ISSUER}{issuer.name}": _jwt_provider(issuer.issuer, list(issuer.audiences), issuer.jwks)
        | {"payload_in_metadata": f"{ISSUER}{issuer.name}", "require_expiration": True}
        for issuer in credentials.issuers
    }
    requirements: list[Json] = [{"provider_name": name} for name in (PROVIDER, *issuers)]
    if credentials.certificates:
        requirements.append({"allow_missing": {}})  # then the identity filter checks the client certificate
    requirement = requirements[0] if len(requirements) == 1 else {"requires_any": {"requirements": requirements}}
    public_rules = [{"match": {"path": path}} for path in HEALTH_PATHS]
    rules = [*public_rules, {"match": {"prefix": "/"}, "requires": requirement}]
    return typed(JWT, providers={PROVIDER: platform_provider, **issuers}, rules=rules)


def scope_filter(required: Sequence[str]) -> Json:
    """Return the filter that checks scopes again: one of the required scopes, or any verified caller."""
    verified = [{"header": {"name": "x-drw-key", "present_match": True}}]
    principals = [_scope_matcher(scope) for scope in required] or verified
    policies = {"route": {"permissions": [{"any": True}], "principals": principals}}
    return typed(RBAC, rules={"action": "ALLOW", "policies": policies})


def access_config(required: Sequence[str], max_bytes: int = MAX_BODY_BYTES) -> Json:
    """Return the per-route configuration with required scopes and maximum body size."""
    return native_filter.route_config(
        native_filter.ANY_SCOPE if required else native_filter.ANY_KEY, max_bytes, required
    )


def public_config(max_bytes: int = MAX_BODY_BYTES) -> Json:
    """Return the per-route configuration of public paths."""
    return native_filter.route_config(native_filter.PUBLIC, max_bytes)


def router() -> Json:
    """Return the router filter, the last of the chain."""
    message = typed("envoy.extensions.filters.http.router.v3.Router", suppress_envoy_headers=True)
    return extension(ROUTER, message)


def size_limit(limit: int) -> Json:
    """Return the filter that rejects larger bodies."""
    limiter = typed("envoy.extensions.filters.http.body_size_limit.v3.BodySizeLimit", max_request_bytes=limit)
    return extension("envoy.filters.http.body_size_limit", limiter)


def _scope_matcher(scope: str) -> Json:
    """Return the matcher for one scope in the scopes header."""
    pattern = {"safe_regex": {"regex": f"(.* )?{re.escape(scope)}( .*)?"}}
    return {"header": {"name": "x-drw-scopes", "string_match": pattern}}


def _jwt_provider(issuer: str, audiences: list[str], jwks: str) -> Json:
    return {
        "issuer": issuer,
        "audiences": audiences,
        "local_jwks": {"inline_string": jwks},
        "from_headers": [
            *({"name": "authorization", "value_prefix": f"{scheme} "} for scheme in SCHEMES),
            {"name": API_KEY_HEADER},
        ],
        "clock_skew_seconds": CLOCK_SKEW_SECONDS,
        "forward": True,  # to the native filter, which checks the JOSE header and removes the token
        "jwt_cache_config": {"jwt_cache_size": JWT_CACHE_SIZE},
    }
