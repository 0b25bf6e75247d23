"""Health report over all processes: ready, down and unimplemented services."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from drw.api.kernel.v1.kernel_pb2 import ServiceStatus
from drw.api.models.v1.health_pb2 import GetReportRequest
from drw.api.models.v1.health_rpc import HealthClient
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile, ServiceAddress
from support.hosting import hosted
from support.unimplemented import double_unimplemented


@pytest.fixture
def places(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ServiceAddress]:
    def place(*services: str) -> ServiceAddress:
        name = f"{folder}/{tmp_path_factory.mktemp('p').name}-{services[0]}"
        return ServiceAddress(services=services, grpc=f"unix:{name}.g", http=f"unix:{name}.h")

    return place


async def test_the_report_names_down_services_and_ignores_unimplemented_ones(
    profile: Profile, places: Callable[..., ServiceAddress], monkeypatch: pytest.MonkeyPatch
) -> None:
    double_unimplemented(monkeypatch, "templates")
    processes = {"a": places("health", "templates"), "b": places("discovery")}
    spread = profile.model_copy(update={"processes": processes})
    first, second = Host(spread, "a"), Host(spread, "b")
    try:
        await first.start()
        await second.start()
        client = first.client(HealthClient)
        report = await client.get_report(GetReportRequest())
        assert report.healthy
        assert {s.name: s.state for s in report.services} == {
            "health": ServiceStatus.READY,
            "templates": ServiceStatus.UNIMPLEMENTED,
            "discovery": ServiceStatus.READY,
        }
        await second.stop()
        report = await client.get_report(GetReportRequest())
        (down,) = (s for s in report.services if s.state == ServiceStatus.DOWN)
        assert (report.healthy, down.name, down.cluster) == (False, "discovery", "models")
        assert "the process 'b' does not answer" in down.detail
    finally:
        await second.stop()
        await first.stop()


async def test_a_profile_without_processes_is_healthy(profile: Profile) -> None:
    async with hosted(profile, ["health"]) as host:
        assert (await host.client(HealthClient).get_report(GetReportRequest())).healthy
