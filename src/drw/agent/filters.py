"""Request to filters: what happens to a request before it is routed, in order.

strip (early) > keys > revoked > known > scopes > limits > drain > sizes > body > further > router. What changes while
the data plane runs is delivered each by itself: the buckets of the limits begin anew whenever their message is sent
again.
"""

from __future__ import annotations

import re

from drw.agent.shapes import Json, extension, typed
from drw.api.gateway.v1.authentication_pb2 import Credentials
from drw.api.gateway.v1.rate_limiting_pb2 import Limits

DRAIN = "envoy.filters.http.buffer"
SIZES = "drw.sizes"
KEYS = "drw.keys"
REVOKED = "drw.revoked"
SCOPES = "envoy.filters.http.rbac"
LIMITS = "drw.limits"
KNOWN = "drw.known"
BODY = "drw.body"
FURTHER = "drw.further"
ROUTER = "envoy.filters.http.router"

JWT = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
RBAC = "envoy.extensions.filters.http.rbac.v3.RBAC"
COMPOSITE = "envoy.extensions.filters.http.composite.v3"
LIMIT = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
STATE = "envoy.extensions.filters.http.set_filter_state.v3.Config"
KEY_STATE = "drw.key"

DISCOVERED = {KEYS: JWT, REVOKED: RBAC, LIMITS: LIMIT}
"""The filters that are delivered by themselves, and their types."""

PROVIDER = "drw"
METADATA = "drw.jwt"
ALIVE = "/healthz"
REVOKED_POLICY = "revoked"
MAX_BODY_BYTES = 1 << 30
"""The most that any route lets through; a route may say less."""

DRAINED_BYTES = 48 << 20
"""Up to here a body that is too large is read before it is refused."""

CLAIMS = {
    "x-drw-org": "org",
    "x-drw-desk": "desk",
    "x-drw-key": "sub",
    "x-drw-scopes": "scope",
    "x-drw-walls": "walls",
}
"""Which claim of a key goes into which header: what `drw.kernel.call.Caller.from_headers` reads."""

FOREIGN = ("x-drw-", "x-envoy-")
"""Headers that only we may set: a client's own are dropped."""

SCHEMES = ("Bearer", "bearer")
CLOCK_SKEW_SECONDS = 10
UNBOUNDED = 1_000_000_000
MANY_KEYS = 10_000
ALWAYS = {"default_value": {"numerator": 100}}


def strip() -> Json:
    """Return the extension that drops what a client may not say, before a route is looked for at all."""
    removals = [{"remove_on_match": {"key_matcher": {"prefix": p, "ignore_case": True}}} for p in FOREIGN]
    message = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    return extension("envoy.http.early_header_mutation.header_mutation", typed(message, mutations=removals))


def known() -> Json:
    """Return the filter after which it is known who calls: it notes the key, and has the route looked for again."""
    return extension(
        KNOWN, typed(STATE, clear_route_cache=True, on_request_headers=[note(KEY_STATE, "%REQ(X-DRW-KEY)%")])
    )


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
    return extension(BODY, typed(f"{COMPOSITE}.Composite"))


def further() -> Json:
    """Return the filter in which a route has filters of its own, once the route is known for good."""
    return extension(FURTHER, typed(f"{COMPOSITE}.Composite"))


def drain() -> Json:
    """Return the filter that reads a whole body first: off but where a route says otherwise."""
    message = typed("envoy.extensions.filters.http.buffer.v3.Buffer", max_request_bytes=DRAINED_BYTES)
    return extension(DRAIN, message) | {"disabled": True}


def drained() -> Json:
    """Return what a route says whose bodies are read to their end before anything is done with them."""
    return typed("envoy.extensions.filters.http.buffer.v3.BufferPerRoute", buffer={"max_request_bytes": DRAINED_BYTES})


def sizes() -> Json:
    """Return the filter that refuses a body too large for its route, by its declared length or once so much came."""
    return extension(SIZES, typed(f"{COMPOSITE}.Composite", matcher={"on_no_match": _size(MAX_BODY_BYTES)}))


def at_most(size: int) -> Json:
    """Return what a route says whose bodies have at most this many bytes."""
    return typed(f"{COMPOSITE}.CompositePerRoute", matcher={"on_no_match": _size(size)})


def keys(credentials: Credentials) -> Json:
    """Return the filter that verifies keys, and puts what they say into headers."""
    provider = {
        "issuer": credentials.issuer,
        "audiences": [credentials.audience],
        "local_jwks": {"inline_string": credentials.jwks},
        "from_headers": [{"name": "authorization", "value_prefix": f"{scheme} "} for scheme in SCHEMES],
        "clock_skew_seconds": CLOCK_SKEW_SECONDS,
        "forward": False,
        "payload_in_metadata": METADATA,
        "normalize_payload_in_metadata": {"space_delimited_claims": ["scope"]},
        "claim_to_headers": [{"header_name": h, "claim_name": c} for h, c in CLAIMS.items()],
        "jwt_cache_config": {"jwt_cache_size": MANY_KEYS},
    }
    rules = [{"match": {"path": ALIVE}}, {"match": {"prefix": "/"}, "requires": {"provider_name": PROVIDER}}]
    return typed(JWT, providers={PROVIDER: provider}, rules=rules)


def revoked(credentials: Credentials) -> Json:
    """Return the filter that refuses revoked keys; local replies turn its 403 into a 401."""
    rest = _decision("not revoked", "ALLOW")
    if not credentials.revoked:
        return typed(RBAC, matcher={"on_no_match": rest})
    by_key = typed("envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name="x-drw-key")
    tree = {
        "input": extension("key", by_key),
        "exact_match_map": {"map": {key: _decision(REVOKED_POLICY, "DENY") for key in sorted(credentials.revoked)}},
    }
    return typed(RBAC, matcher={"matcher_tree": tree, "on_no_match": rest})


def scopes() -> Json:
    """Return the filter that checks scopes. It lets nothing through: each route says by itself what it needs."""
    return extension(SCOPES, typed(RBAC, rules={"action": "ALLOW"}))


def any_key() -> Json:
    """Return what a route says that needs no scope."""
    return _policy([{"any": True}])


def one_of(wanted: list[str]) -> Json:
    """Return what a route says whose caller must hold one of these scopes."""
    return _policy([_holds(scope) for scope in wanted])


def limits(wanted: Limits) -> Json:
    """Return the filter that bounds the requests a minute of each key."""
    own = [
        {"entries": [{"key": "key", "value": limit.key}], "token_bucket": _bucket(limit.requests_per_minute)}
        for limit in sorted(wanted.limits, key=lambda limit: limit.key)
    ]
    rest = {"entries": [{"key": "key"}], "token_bucket": _bucket(wanted.default_requests_per_minute)}
    return typed(
        LIMIT,
        stat_prefix="keys",
        token_bucket={"max_tokens": UNBOUNDED, "tokens_per_fill": UNBOUNDED, "fill_interval": "1s"},
        filter_enabled=ALWAYS,
        filter_enforced=ALWAYS,
        rate_limits=[{"actions": [{"request_headers": {"header_name": "x-drw-key", "descriptor_key": "key"}}]}],
        descriptors=[*own, rest],
        max_dynamic_descriptors=MANY_KEYS,
        always_consume_default_token_bucket=False,
        enable_x_ratelimit_headers="DRAFT_VERSION_03",
        enable_retry_after_header=True,
    )


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


def _bucket(per_minute: int) -> Json:
    return {"max_tokens": per_minute, "tokens_per_fill": per_minute, "fill_interval": "60s"}


def _decision(name: str, action: str) -> Json:
    return {"action": extension(name, typed("envoy.config.rbac.v3.Action", name=name, action=action))}


def _policy(principals: list[Json]) -> Json:
    policies = {"route": {"permissions": [{"any": True}], "principals": principals}}
    rbac = {"rules": {"action": "ALLOW", "policies": policies}}
    return typed("envoy.extensions.filters.http.rbac.v3.RBACPerRoute", rbac=rbac)


def _holds(scope: str) -> Json:
    path = [{"key": METADATA}, {"key": "scope"}]
    value = {"list_match": {"one_of": {"string_match": {"exact": scope}}}}
    matcher = {"filter": "envoy.filters.http.jwt_authn", "path": path, "value": value}
    return {"sourced_metadata": {"metadata_matcher": matcher}}
