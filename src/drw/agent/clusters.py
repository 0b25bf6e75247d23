"""Our upstreams as Envoy's clusters: where they answer, how many requests at once, which retries."""

from __future__ import annotations

from urllib.parse import urlsplit

from drw.agent.shapes import Json, address, typed
from drw.api.gateway.v1.load_balancer_pb2 import Upstream

CLUSTER = "envoy.config.cluster.v3.Cluster"
IDLE_SECONDS = 300
"""Below the 600 seconds for which services keep an idle connection, so that it is never they who close one in use."""

TRACES = "traces"


def cluster(upstream: Upstream) -> Json:
    """Return one upstream."""
    found = _cluster(upstream.name, list(upstream.addresses))
    found["circuit_breakers"] = _bounds()
    if len(upstream.addresses) > 1:
        found |= {"lb_policy": "LEAST_REQUEST", "outlier_detection": _outliers()}
    return found


def trace_collector(endpoint: str) -> Json:
    """Return where traces go, as in `http://127.0.0.1:4318`."""
    url = urlsplit(endpoint)
    return _cluster(TRACES, [f"{url.hostname}:{url.port or 80}"])


def _cluster(name: str, addresses: list[str]) -> Json:
    ends = [{"endpoint": {"address": address(where)}} for where in addresses]
    named = any(not where.startswith("unix:") for where in addresses)
    options = {"common_http_protocol_options": {"idle_timeout": f"{IDLE_SECONDS}s"}}
    protocol = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return typed(
        CLUSTER,
        name=name,
        type="STRICT_DNS" if named else "STATIC",
        connect_timeout="1s",
        load_assignment={"cluster_name": name, "endpoints": [{"lb_endpoints": ends}]},
        common_lb_config={"healthy_panic_threshold": {"value": 0}},
        typed_extension_protocol_options={
            protocol: typed(protocol, **options, explicit_http_config={"http_protocol_options": {}})
        },
    )


def _bounds() -> Json:
    # Envoy's own default of three retries at once fails requests as soon as a host goes.
    budget = {"budget_percent": {"value": 20}, "min_retry_concurrency": 10}
    most = {"max_connections": 1024, "max_pending_requests": 1024, "max_requests": 4096, "retry_budget": budget}
    return {"thresholds": [most]}


def _outliers() -> Json:
    # Only what happens on the way counts: an upstream that says 503 by itself knows why.
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 3,
        "enforcing_consecutive_5xx": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "interval": "2s",
        "base_ejection_time": "5s",
        "max_ejection_percent": 100,
    }
