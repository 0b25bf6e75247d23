"""Request to filters: what happens to a request before it is routed, in order.

strip > keys > revoked > scopes > limits > drain > sizes > router. What changes while the data plane runs is delivered
each by itself: the buckets of the limits begin anew whenever their message is sent again.
"""

from __future__ import annotations

from drw.agent import limiting
from drw.agent.shapes import Json, extension, typed
from drw.api.gateway.v1.authentication_pb2 import Credentials
from drw.api.gateway.v1.rate_limiting_pb2 import Limits

STRIP = "drw.strip"
DRAIN = "envoy.filters.http.buffer"
SIZES = "drw.sizes"
KEYS = "drw.keys"
REVOKED = "drw.revoked"
SCOPES = "envoy.filters.http.rbac"
LIMITS = "drw.limits"
ROUTER = "envoy.filters.http.router"

JWT = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
RBAC = "envoy.extensions.filters.http.rbac.v3.RBAC"
COMPOSITE = "envoy.extensions.filters.http.composite.v3"

DISCOVERED = {KEYS: JWT, REVOKED: RBAC, LIMITS: limiting.LIMIT}
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
MANY_KEYS = 10_000


def strip() -> Json:
    """Return the filter that drops what a client may not say, and tells it last what is left of its limits."""
    removals = [{"remove_on_match": {"key_matcher": {"prefix": p, "ignore_case": True}}} for p in FOREIGN]
    message = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
    return extension(
        STRIP, typed(message, mutations={"request_mutations": removals, "response_mutations": limiting.headers()})
    )


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
    """Return the filter that bounds the requests a minute of each key, desk and org."""
    return limiting.limits(wanted)


def router() -> Json:
    """Return the last filter, which sends the request on."""
    message = typed("envoy.extensions.filters.http.router.v3.Router", suppress_envoy_headers=True)
    return extension(ROUTER, message)


def _size(limit: int) -> Json:
    bound = typed("envoy.extensions.filters.http.body_size_limit.v3.BodySizeLimit", max_request_bytes=limit)
    action = typed(
        f"{COMPOSITE}.ExecuteFilterAction",
        typed_config=extension("envoy.filters.http.body_size_limit", bound),
    )
    return {"action": extension("bound", action)}


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
