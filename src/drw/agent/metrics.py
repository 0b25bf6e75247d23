"""Envoy's own metrics for Prometheus: one path, with a key that may see them, that leads to one page of its admin."""

from __future__ import annotations

from urllib.parse import quote

from drw.agent import filters
from drw.agent.shapes import Json, address, typed
from drw.kernel.matching import ENVOY_METRICS

CLUSTER = "drw.admin"
SCOPE = "platform:read"
SHOWN = (
    r"^(cluster\.[^.]+\.(upstream_rq_(total|active|time|timeout|per_try_timeout|retry|retry_success|pending_overflow|[1-5]xx)"
    r"|upstream_cx_(active|connect_fail|connect_timeout)|membership_(healthy|total)"
    r"|outlier_detection\.ejections_(active|enforced_total)"
    r"|circuit_breakers\.default\.(cx_open|rq_open|rq_pending_open|rq_retry_open))"
    r"|http\.drw\.(downstream_rq_(total|active|time|[1-5]xx)|downstream_cx_active)"
    r"|server\.(live|uptime|memory_allocated|memory_heap_size|total_connections)"
    r"|.*\.update_rejected)$"
)
"""What is shown: a bounded number of lines for each upstream."""


def cluster(admin: str) -> Json:
    """Return where the admin answers."""
    end = {"endpoint": {"address": address(admin)}}
    return typed(
        "envoy.config.cluster.v3.Cluster",
        name=CLUSTER,
        type="STATIC" if admin.startswith("unix:") else "STRICT_DNS",
        connect_timeout="1s",
        load_assignment={"cluster_name": CLUSTER, "endpoints": [{"lb_endpoints": [end]}]},
    )


def route() -> Json:
    """Return the one way there: the whole path must be this, without a query, so that nothing else can be asked."""
    asked = {":method": "GET", ":path": ENVOY_METRICS}
    page = f"/stats/prometheus?filter={quote(SHOWN, safe='')}"
    return {
        "name": "envoy",
        "match": {
            "path": ENVOY_METRICS,
            "headers": [{"name": name, "string_match": {"exact": value}} for name, value in asked.items()],
        },
        "route": {"cluster": CLUSTER, "prefix_rewrite": page, "timeout": "10s"},
        "metadata": {"filter_metadata": {"drw": {"needs": repr(SCOPE), "gone": "Envoy does not tell its metrics"}}},
        "typed_per_filter_config": {filters.SCOPES: filters.one_of([SCOPE])},
    }
