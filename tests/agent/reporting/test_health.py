"""The circuit of a host, as it is read from what Envoy says of it over time."""

from __future__ import annotations

from typing import Any

from prometheus_client import REGISTRY

from drw.agent.adapters.envoy_admin import EnvoyAdmin
from drw.agent.reporting.health import UpstreamHealth
from drw.api.gateway.v1.load_balancer_pb2 import Upstream
from drw.api.gateway.v1.request_router_pb2 import Health
from drw.kernel.errors import Unavailable


def counted(upstream: str) -> dict[str, float]:
    """Return what Prometheus reads of an upstream."""
    states = ("closed", "open", "half_open")
    values = {s: REGISTRY.get_sample_value("drw_upstream_hosts", {"upstream": upstream, "circuit": s}) for s in states}
    return {state: value for state, value in values.items() if value is not None}


class DoubleAdmin(EnvoyAdmin):
    """Says of one host what the test says, as Envoy's `/clusters?format=json` does."""

    def __init__(self) -> None:
        super().__init__("unix:/nothing")
        self.gone = False
        self.ejected = False
        self.good = 0
        self.address: dict[str, Any] = {"socket_address": {"address": "::1", "port_value": 8000}}

    async def hosts(self) -> list[tuple[str, dict[str, Any]]]:
        if self.gone:
            raise Unavailable("Envoy does not answer")
        stats = [
            {"name": "rq_success", "value": str(self.good)},
            {"name": "rq_error"},
            {"name": "rq_total", "value": "9"},
        ]
        status = {"failed_outlier_check": True} if self.ejected else {"eds_health_status": "HEALTHY"}
        host = {"address": self.address, "stats": stats, "health_status": status}
        return [("vllm", host), ("drw.admin", host)]


async def test_a_circuit_is_half_open_until_an_answer_is_good() -> None:
    admin = DoubleAdmin()
    circuits, upstreams = UpstreamHealth(admin), [Upstream(name="vllm")]

    async def circuit() -> Health.Circuit:
        (host,) = await circuits.read(upstreams)
        assert (host.upstream, host.address, host.requests) == ("vllm", "[::1]:8000", 9)
        return host.circuit

    assert await circuit() == Health.CLOSED
    admin.good, admin.ejected = 5, True
    assert await circuit() == Health.OPEN
    assert counted("vllm") == {"closed": 0, "open": 1, "half_open": 0}
    admin.ejected = False
    assert [await circuit(), await circuit()] == [Health.HALF_OPEN] * 2
    assert counted("vllm") == {"closed": 0, "open": 0, "half_open": 1}
    admin.ejected = True
    assert await circuit() == Health.OPEN
    admin.ejected, admin.good = False, 6
    assert [await circuit(), await circuit()] == [Health.CLOSED] * 2
    assert counted("vllm") == {"closed": 1, "open": 0, "half_open": 0}
    assert counted("drw.admin") == {}
    admin.gone = True
    assert await circuits.read(upstreams) == [] and counted("vllm") == {}


async def test_without_envoy_nothing_is_said_and_sockets_have_paths() -> None:
    admin = DoubleAdmin()
    circuits = UpstreamHealth(admin)
    admin.address = {"pipe": {"path": "/run/x"}}
    assert [host.address for host in await circuits.read([Upstream(name="vllm")])] == ["unix:/run/x"]
    assert await circuits.read([Upstream(name="other")]) == []
    admin.gone = True
    assert await circuits.read([Upstream(name="vllm")]) == []
