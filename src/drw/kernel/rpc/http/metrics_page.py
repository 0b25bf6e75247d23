"""Metrics in Prometheus' text format, filtered by tenant.

Internal scrapes without a caller and `platform:admin` get all series. Other callers get series of the platform, whose
labels are all in `PLATFORM_LABELS`, and of their own org and desk. Series with any other label are withheld, so new
labels never leak tenants.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import copy

from prometheus_client import REGISTRY, CollectorRegistry, Metric, generate_latest

from drw.kernel import tenancy
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.kernel.tenancy import PLATFORM, Owner, may_read

TENANT_LABELS = frozenset({"org", "desk", "key"})
PLATFORM_LABELS = frozenset({
    # prometheus_client's own, of histograms, of the process and of Python
    "le", "generation", "implementation", "major", "minor", "patchlevel", "version",
    # ours
    "activity", "circuit", "code", "configuration", "error_type", "from", "kind", "method", "model", "outcome", "part",
    "period", "reason", "replica", "route", "service", "state", "to",
    "upstream",
    "gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "gen_ai_response_model",
    "gen_ai_token_type",
    # Envoy's
    "envoy_cluster_name", "envoy_http_conn_manager_prefix", "envoy_listener_address",
    "envoy_local_http_ratelimit_prefix", "envoy_response_code", "envoy_response_code_class", "envoy_rds_route_config",
    "envoy_worker_id",
})  # fmt: skip
"""Labels without information about tenants."""
ADMIN_LABELS = frozenset({"calendar", "class", "consumer", "endpoint"})
"""Labels of series that add up all tenants, which only platform admins may see."""

SERIES = re.compile(rb"^(\w+)(?:\{(.*)\})? ")
LABEL = re.compile(rb'(\w+)="((?:[^"\\]|\\.)*)"')
LABELS = re.compile(rb'(?:\w+="(?:[^"\\]|\\.)*"(?:,|$))*')


class TenantView(CollectorRegistry):
    """A registry with the series that a caller can see."""

    def __init__(self, principal: Principal) -> None:
        super().__init__()
        self._principal = principal

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with the visible series."""
        for metric in REGISTRY.collect():
            visible = copy(metric)  # some collectors return the same object each time
            visible.samples = [sample for sample in metric.samples if may_see(sample.labels, self._principal)]
            if visible.samples:
                yield visible


def page(other_metrics: bytes) -> bytes:
    """Return the series of this process and of `other_metrics` that the caller can see."""
    if tenancy.may_read_platform():
        return generate_latest() + other_metrics
    principal = context.caller()
    visible_lines = (
        line
        for line in other_metrics.splitlines(keepends=True)
        if line.startswith(b"#") or ((labels := _labels(line)) is not None and may_see(labels, principal))
    )
    return generate_latest(TenantView(principal)) + b"".join(visible_lines)


def may_see(labels: Mapping[str, str], principal: Principal) -> bool:
    """Return whether a principal can see a series with these labels."""
    expected = PLATFORM_LABELS | TENANT_LABELS | ({"name"} if "kind" in labels else set())
    return labels.keys() <= expected and _may_read(labels, principal)


def _may_read(labels: Mapping[str, str], principal: Principal) -> bool:
    """Return whether a principal can see series with these tenant labels. With `kind="desk"`, `name` is a desk."""
    kind = labels.get("kind")
    name = labels.get("name", "")
    desk = labels.get("desk", "") or (name if kind == "desk" else "")
    key = labels.get("key", "") or (name if kind == "key" else "")
    owner = Owner(labels.get("org", ""), desk)
    if owner == PLATFORM and not key:
        return True
    if key and not desk:
        return (owner.org, key) == (principal.org, principal.key)
    return may_read(owner, principal)


def _labels(line: bytes) -> dict[str, str] | None:
    """Parse the labels of a series; None for a line that is not a valid series."""
    match = SERIES.match(line)
    if not match or not LABELS.fullmatch(text := match[2] or b""):
        return None
    return {name.decode(): value.decode(errors="replace") for name, value in LABEL.findall(text)}
