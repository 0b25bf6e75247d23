"""Upstream health as seen by Envoy: circuit state of each host (closed, open, half-open).

Envoy only ejects and returns hosts; a returned host gets its full share at once. It counts as half-open from then until
its first success, and further consecutive failures eject it again. (Envoy's slow start applies to new hosts and to
those that pass active health checks, not to returned ones.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from prometheus_client import Gauge

from drw.agent.adapters.envoy_admin import EnvoyAdmin
from drw.api.gateway.v1.load_balancer_pb2 import Upstream
from drw.api.gateway.v1.request_router_pb2 import Health
from drw.kernel.errors import Unavailable

MAX_HOSTS = 2000
CIRCUIT_STATES = (Health.CLOSED, Health.OPEN, Health.HALF_OPEN)
HOSTS = Gauge("drw_upstream_hosts", "Hosts of each upstream, by the state of their circuit.", ["upstream", "circuit"])


class UpstreamHealth:
    """The hosts of one Envoy, and those ejected without a success since."""

    def __init__(self, admin: EnvoyAdmin) -> None:
        self._admin = admin
        self._ejected: dict[tuple[str, str], int] = {}
        """Ejected hosts, with their number of successes at that time."""

    async def read(self, upstreams: Iterable[Upstream]) -> list[Health]:
        """Return the sorted hosts of these upstreams and update the metrics; an empty list if Envoy does not answer."""
        names = {upstream.name for upstream in upstreams}
        try:
            statuses = await self._admin.hosts()
        except Unavailable:
            HOSTS.clear()
            return []
        hosts = [self._health(name, host) for name, host in statuses if name in names]
        present = {(host.upstream, host.address) for host in hosts}
        self._ejected = {host: count for host, count in self._ejected.items() if host in present}
        _update_metrics(hosts)
        return sorted(hosts, key=lambda host: (host.upstream, host.address))[:MAX_HOSTS]

    def _health(self, upstream: str, host: dict[str, Any]) -> Health:
        stats = {stat["name"]: int(stat.get("value", 0)) for stat in host.get("stats", ())}
        address, successes = _address(host["address"]), stats.get("rq_success", 0)
        return Health(
            upstream=upstream,
            address=address,
            circuit=self._circuit((upstream, address), host.get("health_status", {}), successes),
            requests=stats.get("rq_total", 0),
            errors=stats.get("rq_error", 0) + stats.get("cx_connect_fail", 0),
            active=stats.get("rq_active", 0),
        )

    def _circuit(self, host: tuple[str, str], status: dict[str, Any], successes: int) -> Health.Circuit:
        if status.get("failed_outlier_check"):
            self._ejected[host] = successes
            return Health.OPEN
        if host in self._ejected and self._ejected[host] >= successes:
            return Health.HALF_OPEN
        self._ejected.pop(host, None)
        return Health.CLOSED


def _update_metrics(hosts: Sequence[Health]) -> None:
    counts = Counter((host.upstream, host.circuit) for host in hosts)
    HOSTS.clear()
    for upstream in {host.upstream for host in hosts}:
        for state in CIRCUIT_STATES:
            HOSTS.labels(upstream, Health.Circuit.Name(state).lower()).set(counts[upstream, state])


def _address(address: dict[str, Any]) -> str:
    if pipe := address.get("pipe"):
        return f"unix:{pipe['path']}"
    socket_address = address.get("socket_address", {})
    host = socket_address.get("address", "")
    return f"{f'[{host}]' if ':' in host else host}:{socket_address.get('port_value', 0)}"
