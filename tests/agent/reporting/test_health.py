"""The circuit breaker state of a host, derived from consecutive reads of Envoy's host statistics."""

from __future__ import annotations

from prometheus_client import REGISTRY

from drw.agent.adapters.envoy_admin import EnvoyAdmin
from drw.agent.reporting.health import UpstreamHealth
from drw.api.gateway.v1.load_balancer_pb2 import Upstream
from drw.api.gateway.v1.request_router_pb2 import Health
from drw.kernel.errors import Unavailable
from support.json_types import JsonObject


def host_gauges(upstream: str) -> dict[str, float]:
    """Return the host gauges of an upstream by circuit state."""
    states = ("closed", "open", "half_open")
    values = {s: REGISTRY.get_sample_value("drw_upstream_hosts", {"upstream": upstream, "circuit": s}) for s in states}
    return {state: value for state, value in values.items() if value is not None}


class DoubleAdmin(EnvoyAdmin):
    """Reports one host with the state that the test sets, like Envoy's `/clusters?format=json`."""

    def __init__(self) -> None:
        super().__init__("unix:/nothing")
        self.unreachable = False
        self.ejected = False
        self.successes = 0
        self.address: JsonObject = {"socket_address": {"address": "::1", "port_value": 8000}}

    async def hosts(self) -> list[tuple[str, JsonObject]]:
        if self.unreachable:
            raise Unavailable("Envoy does not answer")
        stats = [
            {"name": "rq_success", "value": str(self.successes)},
            {"name": "rq_error"},
            {"name": "rq_total", "value": "9"},
        ]
        status = {"failed_outlier_check": True} if self.ejected else {"eds_health_status": "HEALTHY"}
        host = {"address": self.address, "stats": stats, "health_status": status}
        return [("vllm", host), ("drw.admin", host)]


async def test_ejected_host_is_half_open_until_a_request_succeeds() -> None:
    admin = DoubleAdmin()
    health, upstreams = UpstreamHealth(admin), [Upstream(name="vllm")]

    async def read_circuit() -> Health.Circuit:
        (host,) = await health.read(upstreams)
        assert (host.upstream, host.address, host.requests) == ("vllm", "[::1]:8000", 9)
        return host.circuit

    assert await read_circuit() == Health.CLOSED
    admin.successes, admin.ejected = 5, True
    assert await read_circuit() == Health.OPEN
    assert host_gauges("vllm") == {"closed": 0, "open": 1, "half_open": 0}
    admin.ejected = False
    assert [await read_circuit(), await read_circuit()] == [Health.HALF_OPEN] * 2
    assert host_gauges("vllm") == {"closed": 0, "open": 0, "half_open": 1}
    admin.ejected = True
    assert await read_circuit() == Health.OPEN
    admin.ejected, admin.successes = False, 6
    assert [await read_circuit(), await read_circuit()] == [Health.CLOSED] * 2
    assert host_gauges("vllm") == {"closed": 1, "open": 0, "half_open": 0}
    assert host_gauges("drw.admin") == {}
    admin.unreachable = True
    assert await health.read(upstreams) == [] and host_gauges("vllm") == {}


async def test_unix_sockets_are_reported_and_no_host_without_envoy() -> None:
    admin = DoubleAdmin()
    health = UpstreamHealth(admin)
    admin.address = {"pipe": {"path": "/run/x"}}
    assert [host.address for host in await health.read([Upstream(name="vllm")])] == ["unix:/run/x"]
    assert await health.read([Upstream(name="other")]) == []
    admin.unreachable = True
    assert await health.read([Upstream(name="vllm")]) == []
