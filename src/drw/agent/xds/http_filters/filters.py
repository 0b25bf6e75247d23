"""The HTTP filter chain of a request, in order.

strip (early) > keys > identity > known > cutter > blocked > drain > sizes > body > models > further > router.
The native filter (cutter) checks tokens, limits, scopes and sizes. Dynamic filters are delivered separately.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from drw.agent import cutter
from drw.agent.cutter import CUTTER, MODULE
from drw.agent.xds.builders import Json, extension, typed
from drw.agent.xds.http_filters.deny_list import BLOCKED, MODELS, RBAC
from drw.api.gateway.v1.authentication_pb2 import Credentials
from drw.routing.request_matching import OWN_PATHS, PLATFORM_HEADERS

DRAIN = "envoy.filters.http.buffer"
SIZES = "drw.sizes"
KEYS = "drw.keys"
IDENTITY = "drw.identity"
KNOWN = "drw.known"
BODY = "drw.body"
FURTHER = "drw.further"
ROUTER = "envoy.filters.http.router"

JWT = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
COMPOSITE = "envoy.extensions.filters.http.composite.v3"
LUA = "envoy.extensions.filters.http.lua.v3.Lua"
STATE = "envoy.extensions.filters.http.set_filter_state.v3.Config"
KEY_STATE = "drw.key"

DISCOVERED = {IDENTITY: LUA, KEYS: JWT, BLOCKED: RBAC, MODELS: RBAC, CUTTER: MODULE}
"""Filters delivered separately, with their types."""

OFF = (IDENTITY,)
"""Filters disabled by default and enabled per route."""

PROVIDER = "drw"
ALIVE = tuple(OWN_PATHS)
"""Public health paths."""
MAX_BODY_BYTES = 1 << 30
"""Maximum body size of any route."""

UNBOUNDED = 1 << 62
"""Routes that buffer the body before checking its size."""

DRAINED_BYTES = 48 << 20
"""Bytes of an oversized body that are read before the rejection."""

CLAIMS = {
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

SCHEMES = ("Bearer", "bearer")
CLOCK_SKEW_SECONDS = 10
MANY_KEYS = 10_000


def strip() -> Json:
    """Return the extension that strips reserved client headers before route matching."""
    removals = [{"remove_on_match": {"key_matcher": {"prefix": p, "ignore_case": True}}} for p in PLATFORM_HEADERS]
    message = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    return extension("envoy.http.early_header_mutation.header_mutation", typed(message, mutations=removals))


def known() -> Json:
    """Return the filter that records the verified key and repeats route matching.

    It is enabled only for routes that match on the caller, because route matching costs more than most filters.
    """
    noted = note(KEY_STATE, "%REQ(X-DRW-KEY)%")
    return extension(KNOWN, typed(STATE, clear_route_cache=True, on_request_headers=[noted])) | {"disabled": True}


def switched_on() -> Json:
    """Return the per-route configuration that enables a disabled filter."""
    return typed("envoy.config.route.v3.FilterConfig", config={})


def note(state: str, text: str) -> Json:
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


def further() -> Json:
    """Return the composite filter for route-specific filters, after the final route match."""
    return extension(FURTHER, typed(f"{COMPOSITE}.Composite")) | {"disabled": True}


def drain() -> Json:
    """Return the buffer filter, disabled by default."""
    message = typed("envoy.extensions.filters.http.buffer.v3.Buffer", max_request_bytes=DRAINED_BYTES)
    return extension(DRAIN, message) | {"disabled": True}


def drained() -> Json:
    """Return the per-route configuration that buffers whole bodies."""
    return typed("envoy.extensions.filters.http.buffer.v3.BufferPerRoute", buffer={"max_request_bytes": DRAINED_BYTES})


def sizes() -> Json:
    """Return the filter that rejects an oversized body after buffering, disabled by default."""
    return extension(SIZES, typed(f"{COMPOSITE}.Composite")) | {"disabled": True}


def at_most(size: int) -> Json:
    """Return the per-route configuration with the maximum size of buffered bodies."""
    return typed(f"{COMPOSITE}.CompositePerRoute", matcher={"on_no_match": _size(size)})


def keys(credentials: Credentials) -> Json:
    """Return the filter that verifies API keys and issuer tokens, and copies key claims to headers."""
    platform_provider = _provider(credentials.issuer, [credentials.audience], credentials.jwks) | {
        "claim_to_headers": [{"header_name": h, "claim_name": c} for h, c in CLAIMS.items()],
    }
    # Tokens without an expiry would be valid forever.
    others = {
        f"{ISSUER}{one.name}": _provider(one.issuer, list(one.audiences), one.jwks)
        | {"payload_in_metadata": f"{ISSUER}{one.name}", "require_expiration": True}
        for one in credentials.issuers
    }
    needed: list[Json] = [{"provider_name": name} for name in (PROVIDER, *others)]
    if credentials.certificates:
        needed.append({"allow_missing": {}})  # then the identity filter checks the client certificate
    needs = needed[0] if len(needed) == 1 else {"requires_any": {"requirements": needed}}
    open_to_all = [{"match": {"path": path}} for path in ALIVE]
    rules = [*open_to_all, {"match": {"prefix": "/"}, "requires": needs}]
    return typed(JWT, providers={PROVIDER: platform_provider, **others}, rules=rules)


def scopes(required: Sequence[str]) -> Json:
    """Return the filter that checks scopes again: one of the given scopes, or any verified caller."""
    known = [{"header": {"name": "x-drw-key", "present_match": True}}]
    principals = [_holds(scope) for scope in required] or known
    policies = {"route": {"permissions": [{"any": True}], "principals": principals}}
    return typed(RBAC, rules={"action": "ALLOW", "policies": policies})


def needs(required: Sequence[str], max_bytes: int = MAX_BODY_BYTES) -> Json:
    """Return the per-route configuration with required scopes and maximum body size."""
    return cutter.route(cutter.ONE_OF if required else cutter.ANY_KEY, max_bytes, required)


def anybody(max_bytes: int = MAX_BODY_BYTES) -> Json:
    """Return the per-route configuration of public paths."""
    return cutter.route(cutter.ANYBODY, max_bytes)


def literal(text: str) -> str:
    """Return a regular expression that matches exactly this text."""
    return re.escape(text)


def router() -> Json:
    """Return the router filter, the last of the chain."""
    message = typed("envoy.extensions.filters.http.router.v3.Router", suppress_envoy_headers=True)
    return extension(ROUTER, message)


def _size(limit: int) -> Json:
    action = typed(f"{COMPOSITE}.ExecuteFilterAction", typed_config=size_limit(limit))
    return {"action": extension("bound", action)}


def size_limit(limit: int) -> Json:
    """Return the filter that rejects larger bodies."""
    bound = typed("envoy.extensions.filters.http.body_size_limit.v3.BodySizeLimit", max_request_bytes=limit)
    return extension("envoy.filters.http.body_size_limit", bound)


def _holds(scope: str) -> Json:
    """Return the matcher for a word in the scopes header."""
    word = {"safe_regex": {"regex": f"(.* )?{re.escape(scope)}( .*)?"}}
    return {"header": {"name": "x-drw-scopes", "string_match": word}}


def _provider(issuer: str, audiences: list[str], jwks: str) -> Json:
    return {
        "issuer": issuer,
        "audiences": audiences,
        "local_jwks": {"inline_string": jwks},
        "from_headers": [{"name": "authorization", "value_prefix": f"{scheme} "} for scheme in SCHEMES],
        "clock_skew_seconds": CLOCK_SKEW_SECONDS,
        "forward": True,  # to the native filter, which checks the JOSE header and removes the token
        "jwt_cache_config": {"jwt_cache_size": MANY_KEYS},
    }
