"""Translation of upstreams to Envoy clusters: addresses, limits, retries, fallbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from urllib.parse import urlsplit

from drw.agent.xds.builders import Json, address, extension, file_source, typed
from drw.agent.xds.http_filters import boundary
from drw.api.gateway.v1.load_balancer_pb2 import Upstream
from drw.api.gateway.v1.request_router_pb2 import Route
from drw.routing.request_matching import CONNECT_MS, is_platform_process

CLUSTER = "envoy.config.cluster.v3.Cluster"
AGGREGATE = "envoy.extensions.clusters.aggregate.v3.ClusterConfig"
PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
IDLE_SECONDS = 300
"""Less than the services' 600 s, so that Envoy always closes idle connections first."""

LIVENESS_PATH = "/healthz"
"""Answered by each process of the platform from its event loop."""
LIVENESS_SECONDS = 0.75
"""Interval and time limit of liveness checks; a frozen process is found after at most twice this time."""

TRACES = "traces"
LB_POLICIES = {"ring_hash": "RING_HASH", "round_robin": "ROUND_ROBIN", "random": "RANDOM"}
FALLBACK_SEPARATOR = ">"


def primary_upstream(route: Route) -> str:
    """Return the upstream that error messages name."""
    return route.split[0].upstream if route.split else route.upstream


def aggregate_name(upstream: str, fallbacks: Sequence[str]) -> str:
    """Return the name of the aggregate cluster of an upstream and its fallbacks."""
    return FALLBACK_SEPARATOR.join(dict.fromkeys([upstream, *fallbacks]))


def aggregate_clusters(
    routes: Iterable[Route], upstreams: Iterable[Upstream], secret: Callable[[str], str]
) -> list[Json]:
    """Return the aggregate clusters of upstreams with fallbacks.

    Headers are set before Envoy chooses a member, so all members share one credential (the request router enforces
    it), and none is sent if they differ. If one member is a third party, no member receives the caller's identity.
    """
    by_name = {upstream.name: upstream for upstream in upstreams}
    aggregates = {
        aggregate_name(upstream, route.fallbacks)
        for route in routes
        if route.fallbacks
        for upstream in ([share.upstream for share in route.split] or [route.upstream])
    }
    return [_aggregate(name, by_name, secret) for name in sorted(aggregates) if FALLBACK_SEPARATOR in name]


def _aggregate(name: str, by_name: Mapping[str, Upstream], secret: Callable[[str], str]) -> Json:
    members = [by_name[member] for member in name.split(FALLBACK_SEPARATOR)]
    aggregate = typed(
        CLUSTER,
        name=name,
        lb_policy="CLUSTER_PROVIDED",
        connect_timeout="1s",
        cluster_type=extension(
            "envoy.clusters.aggregate", typed(AGGREGATE, clusters=[member.name for member in members])
        ),
        # The limits of member clusters do not apply to the aggregate.
        circuit_breakers=_circuit_breakers(Upstream()),
    )
    (credential, *other_credentials) = {member.credential for member in members}
    credential_name = "" if other_credentials else credential
    upstream_filters = [
        *([] if all(map(is_platform_process, members)) else boundary.filters()),
        *_credential(credential_name, secret(credential_name)),
    ]
    if upstream_filters:
        aggregate["typed_extension_protocol_options"] = {PROTOCOL_OPTIONS: _protocol_options(upstream_filters)}
    return aggregate


def cluster(upstream: Upstream, secret: str = "", ca_file: str = "") -> Json:
    """Return the cluster of one upstream; `secret` is its credential file, `ca_file` its CA file."""
    config = _cluster(upstream.name, list(upstream.addresses), upstream.connect_ms or CONNECT_MS)
    config["circuit_breakers"] = _circuit_breakers(upstream)
    if len(upstream.addresses) > 1:
        config["lb_policy"] = LB_POLICIES.get(upstream.balancing, "LEAST_REQUEST")
    if len(upstream.addresses) > 1 or upstream.eject_after:
        config["outlier_detection"] = _outlier_detection(upstream)
    if len(upstream.addresses) > 1 and is_platform_process(upstream):
        config["health_checks"] = [_liveness_check()]
    if upstream.tls:
        config["transport_socket"] = _tls(ca_file)
    upstream_filters = [
        *([] if is_platform_process(upstream) else boundary.filters()),
        *_credential(upstream.credential, secret),
    ]
    options = _protocol_options(upstream_filters, http2=upstream.http2)
    config["typed_extension_protocol_options"] = {PROTOCOL_OPTIONS: options}
    return config


def trace_collector(endpoint: str) -> Json:
    """Return the cluster of the trace collector, for example `http://127.0.0.1:4318`."""
    url = urlsplit(endpoint)
    return _cluster(TRACES, [f"{url.hostname}:{url.port or 80}"], CONNECT_MS)


def _cluster(name: str, addresses: list[str], connect_ms: int) -> Json:
    metadata = {"filter_metadata": {"drw": {"upstream": name}}}  # overwrites, because the access log shows it
    endpoints = [{"endpoint": {"address": address(endpoint)}, "metadata": metadata} for endpoint in addresses]
    uses_dns = any(not endpoint.startswith("unix:") for endpoint in addresses)
    return typed(
        CLUSTER,
        name=name,
        type="STRICT_DNS" if uses_dns else "STATIC",
        **({"dns_lookup_family": "ALL"} if uses_dns else {}),
        connect_timeout=f"{connect_ms / 1000:g}s",
        load_assignment={"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        common_lb_config={"healthy_panic_threshold": {"value": 0}},
        typed_extension_protocol_options={PROTOCOL_OPTIONS: _protocol_options()},
    )


def _protocol_options(upstream_filters: Sequence[Json] = (), *, http2: bool = False) -> Json:
    options = {"common_http_protocol_options": {"idle_timeout": f"{IDLE_SECONDS}s"}}
    codec = typed("envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec")
    filters = [*upstream_filters, extension("envoy.filters.http.upstream_codec", codec)]
    extra_options = {"http_filters": filters} if upstream_filters else {}
    protocol: Json = {"http2_protocol_options" if http2 else "http_protocol_options": {}}
    return typed(PROTOCOL_OPTIONS, **options, explicit_http_config=protocol, **extra_options)


def _circuit_breakers(upstream: Upstream) -> Json:
    # Envoy's default of three concurrent retries fails requests as soon as a host dies.
    budget = {"budget_percent": {"value": upstream.retry_percent or 20}, "min_retry_concurrency": 10}
    thresholds = {
        "max_connections": upstream.max_connections or 1024,
        "max_pending_requests": upstream.max_pending or 1024,
        "max_requests": upstream.max_requests or 4096,
        "retry_budget": budget,
    }
    return {"thresholds": [thresholds]}


def _outlier_detection(upstream: Upstream) -> Json:
    # For platform processes only connection failures count, because their own 503 responses are deliberate.
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": upstream.eject_after or 3,
        "consecutive_5xx": upstream.eject_after or 3,
        "enforcing_consecutive_5xx": 100 if upstream.eject_on_errors else 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "interval": "2s",
        "base_ejection_time": f"{(upstream.eject_ms or 5000) / 1000:g}s",
        "max_ejection_percent": 100,
    }


def _liveness_check() -> Json:
    """Return the check of each process of an upstream with several: one that froze leaves the rotation in under 2 s.

    Outlier detection finds processes that refuse connections; it would wait for the deadlines of a frozen one. The only
    process of an upstream is not checked: without another one, its requests wait for its restart.
    """
    seconds = f"{LIVENESS_SECONDS}s"
    return {
        "timeout": seconds,
        "interval": seconds,
        "no_traffic_interval": seconds,
        "unhealthy_threshold": 1,
        "healthy_threshold": 1,
        "http_health_check": {"path": LIVENESS_PATH, "host": "health"},
    }


def _tls(ca_file: str) -> Json:
    common = {
        "validation_context": {"trusted_ca": {"filename": ca_file}},
        "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
    }
    context = typed(
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        common_tls_context=common,
        auto_host_sni=True,
        auto_sni_san_validation=True,
    )
    return extension("envoy.transport_sockets.tls", context)


def _credential(name: str, secret: str) -> list[Json]:
    if not name:
        return []
    source = {"name": name, "sds_config": file_source(secret)}
    generic = typed(
        "envoy.extensions.http.injected_credentials.generic.v3.Generic",
        credential=source,
        header="Authorization",
        header_value_prefix="Bearer ",
    )
    injector = typed(
        "envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
        overwrite=True,
        credential=extension("envoy.http.injected_credentials.generic", generic),
    )
    return [extension("envoy.filters.http.credential_injector", injector)]
