"""Request to filters: what happens to a request before it is routed, in order.

strip (early) > keys > identity > known > cutter > blocked > drain > sizes > body > models > further > router.
The cutter checks tokens, limits, scopes and sizes. What changes while the data plane runs is delivered each by itself.
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
"""The filters that are delivered by themselves, and their types."""

OFF = (IDENTITY,)
"""Those of them that are off but where the routes switch them on."""

PROVIDER = "drw"
ALIVE = tuple(OWN_PATHS)
"""Paths at which the data plane says that it serves, to anybody."""
MAX_BODY_BYTES = 1 << 30
"""The most that any route lets through; a route may say less."""

UNBOUNDED = 1 << 62
"""Where a body is read to its end before its size is judged."""

DRAINED_BYTES = 48 << 20
"""Up to here a body that is too large is read before it is refused."""

CLAIMS = {
    "x-drw-org": "org",
    "x-drw-desk": "desk",
    "x-drw-key": "sub",
    "x-drw-scopes": "scope",
    "x-drw-walls": "walls",
}
"""Which claim of a key goes into which header: what `drw.kernel.rpc.context.Caller.from_headers` reads."""

ISSUER = "drw.issuer."
"""What the payload of an issuer's token is called where the identity filter finds it; the issuer's name follows."""

BAD_HEADER = "token_header"
"""The decision to refuse a token for its JOSE header, by which local replies know it; token_header.c takes it."""

SCHEMES = ("Bearer", "bearer")
CLOCK_SKEW_SECONDS = 10
MANY_KEYS = 10_000


def strip() -> Json:
    """Return the extension that drops what a client may not say, before a route is looked for at all."""
    removals = [{"remove_on_match": {"key_matcher": {"prefix": p, "ignore_case": True}}} for p in PLATFORM_HEADERS]
    message = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    return extension("envoy.http.early_header_mutation.header_mutation", typed(message, mutations=removals))


def known() -> Json:
    """Return the filter after which it is known who calls: it notes the key, and has the route looked for again.

    It is off but where routes ask who calls: a look for a route costs more than most filters.
    """
    noted = note(KEY_STATE, "%REQ(X-DRW-KEY)%")
    return extension(KNOWN, typed(STATE, clear_route_cache=True, on_request_headers=[noted])) | {"disabled": True}


def switched_on() -> Json:
    """Return what routes say where a filter that is off is on."""
    return typed("envoy.config.route.v3.FilterConfig", config={})


def note(state: str, text: str) -> Json:
    """Return what puts a text where hash policies find it."""
    return {
        "object_key": state,
        "factory_key": "envoy.hashable_string",
        "format_string": {"text_format_source": {"inline_string": text}, "omit_empty_values": True},
        "skip_if_empty": True,
    }


def body() -> Json:
    """Return the filter that reads what a body says for routing: nothing, but where a route says otherwise."""
    return extension(BODY, typed(f"{COMPOSITE}.Composite")) | {"disabled": True}


def further() -> Json:
    """Return the filter in which a route has filters of its own, once the route is known for good."""
    return extension(FURTHER, typed(f"{COMPOSITE}.Composite")) | {"disabled": True}


def drain() -> Json:
    """Return the filter that reads a whole body first: off but where a route says otherwise."""
    message = typed("envoy.extensions.filters.http.buffer.v3.Buffer", max_request_bytes=DRAINED_BYTES)
    return extension(DRAIN, message) | {"disabled": True}


def drained() -> Json:
    """Return what a route says whose bodies are read to their end before anything is done with them."""
    return typed("envoy.extensions.filters.http.buffer.v3.BufferPerRoute", buffer={"max_request_bytes": DRAINED_BYTES})


def sizes() -> Json:
    """Return the filter that refuses a body too large for its route once it was read: off but where that is done."""
    return extension(SIZES, typed(f"{COMPOSITE}.Composite")) | {"disabled": True}


def at_most(size: int) -> Json:
    """Return what a route says whose bodies are read first and have at most this many bytes."""
    return typed(f"{COMPOSITE}.CompositePerRoute", matcher={"on_no_match": _size(size)})


def keys(credentials: Credentials) -> Json:
    """Return the filter that verifies keys and issuers' tokens, and puts what keys say into headers."""
    platform_provider = _provider(credentials.issuer, [credentials.audience], credentials.jwks) | {
        "claim_to_headers": [{"header_name": h, "claim_name": c} for h, c in CLAIMS.items()],
    }
    # Without an end a token of somebody else's would be good for ever.
    others = {
        f"{ISSUER}{one.name}": _provider(one.issuer, list(one.audiences), one.jwks)
        | {"payload_in_metadata": f"{ISSUER}{one.name}", "require_expiration": True}
        for one in credentials.issuers
    }
    needed: list[Json] = [{"provider_name": name} for name in (PROVIDER, *others)]
    if credentials.certificates:
        needed.append({"allow_missing": {}})  # then the certificate decides, in the identity filter
    needs = needed[0] if len(needed) == 1 else {"requires_any": {"requirements": needed}}
    open_to_all = [{"match": {"path": path}} for path in ALIVE]
    rules = [*open_to_all, {"match": {"prefix": "/"}, "requires": needs}]
    return typed(JWT, providers={PROVIDER: platform_provider, **others}, rules=rules)


def scopes(wanted: Sequence[str]) -> Json:
    """Return the filter that checks scopes once more: whoever holds one of them may pass, or whoever is known."""
    known = [{"header": {"name": "x-drw-key", "present_match": True}}]
    principals = [_holds(scope) for scope in wanted] or known
    policies = {"route": {"permissions": [{"any": True}], "principals": principals}}
    return typed(RBAC, rules={"action": "ALLOW", "policies": policies})


def needs(wanted: Sequence[str], most: int = MAX_BODY_BYTES) -> Json:
    """Return what a route says whose caller must hold one of these scopes, or be known, and how large a body may be."""
    return cutter.route(cutter.ONE_OF if wanted else cutter.ANY_KEY, most, wanted)


def anybody(most: int = MAX_BODY_BYTES) -> Json:
    """Return what a route says on which nothing is to be had."""
    return cutter.route(cutter.ANYBODY, most)


def literal(text: str) -> str:
    """Return a regular expression that means this text alone."""
    return re.escape(text)


def router() -> Json:
    """Return the last filter, which sends the request on."""
    message = typed("envoy.extensions.filters.http.router.v3.Router", suppress_envoy_headers=True)
    return extension(ROUTER, message)


def _size(limit: int) -> Json:
    action = typed(f"{COMPOSITE}.ExecuteFilterAction", typed_config=size_limit(limit))
    return {"action": extension("bound", action)}


def size_limit(limit: int) -> Json:
    """Return the filter itself that refuses a body of more bytes."""
    bound = typed("envoy.extensions.filters.http.body_size_limit.v3.BodySizeLimit", max_request_bytes=limit)
    return extension("envoy.filters.http.body_size_limit", bound)


def _holds(scope: str) -> Json:
    """Return who has the word in the header that all ways of identification end in."""
    word = {"safe_regex": {"regex": f"(.* )?{re.escape(scope)}( .*)?"}}
    return {"header": {"name": "x-drw-scopes", "string_match": word}}


def _provider(issuer: str, audiences: list[str], jwks: str) -> Json:
    return {
        "issuer": issuer,
        "audiences": audiences,
        "local_jwks": {"inline_string": jwks},
        "from_headers": [{"name": "authorization", "value_prefix": f"{scheme} "} for scheme in SCHEMES],
        "clock_skew_seconds": CLOCK_SKEW_SECONDS,
        "forward": True,  # to the cutter, which judges the token's own header and lets no token go further
        "jwt_cache_config": {"jwt_cache_size": MANY_KEYS},
    }
