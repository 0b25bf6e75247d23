"""Calls between services: the same responses and errors in one process, serialised, and over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from drw.api.gateway.v1.authentication_pb2 import ListKeysRequest
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.kernel.v1.kernel_pb2 import GetStatusRequest, ServiceStatus
from drw.api.kernel.v1.kernel_rpc import ProcessClient
from drw.api.models.v1.health_pb2 import GetReportRequest
from drw.api.models.v1.health_rpc import HealthClient
from drw.kernel.errors import Forbidden, Unavailable, Unimplemented
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.rpc.transport import Channels
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import ConfigError, Profile
from support.hosting import hosted
from support.unimplemented import double_unimplemented


@pytest.fixture(autouse=True)
def unimplemented(monkeypatch: pytest.MonkeyPatch) -> None:
    """The health service has only its contract."""
    double_unimplemented(monkeypatch, "health")


@pytest.mark.parametrize("how", ["together", "strict", "apart"])
async def test_a_service_without_methods_reports_unimplemented(profile: Profile, caller: Principal, how: str) -> None:
    async with hosted(profile, ["health"], how) as host:
        with acting_for(caller), pytest.raises(Unimplemented, match="health.GetReport"):
            await host.client(HealthClient).get_report(GetReportRequest())


async def test_a_service_can_call_only_services_in_its_catalog_row(profile: Profile) -> None:
    async with hosted(profile, ["health"], "apart") as host:
        address = host.profile.address_of("health")
        channels = Channels()
        with pytest.raises(Forbidden, match="'documents' may not call 'health'"):
            await channels.client(HealthClient, address.grpc, "documents").get_report(GetReportRequest())
        await channels.close()


async def test_a_stopped_process_is_unavailable(profile: Profile, folder: Path) -> None:
    channels = Channels()
    client = channels.client(AuthenticationClient, f"unix:{folder}/nobody.sock")
    with pytest.raises(Unavailable, match="the authentication service does not answer"):
        await client.list_keys(ListKeysRequest())
    await channels.close()


async def test_the_status_names_unimplemented_services(profile: Profile) -> None:
    async with hosted(profile, ["health"], "apart") as host:
        channels = Channels()
        status = await channels.client(ProcessClient, host.profile.address_of("health").grpc).get_status(
            GetStatusRequest()
        )
        await channels.close()
    assert [(s.name, s.state) for s in status.services] == [("health", ServiceStatus.UNIMPLEMENTED)]


async def test_unknown_settings_are_rejected(profile: Profile) -> None:
    invalid = profile.model_copy(update={"services": {"templates": {"speed": 3}}})
    host = Host(invalid, "test", ["templates"])
    with pytest.raises(ConfigError, match="templates.speed is not a setting"):
        await host.start()
    await host.stop()


@pytest.fixture
async def web(profile: Profile) -> AsyncIterator[httpx.AsyncClient]:
    async with hosted(profile, ["health"]) as host:
        transport = httpx.ASGITransport(app=host.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://drw") as client:
            yield client


HEADERS = {"x-drw-key": "key_1", "x-drw-org": "acme", "x-drw-desk": "research", "x-drw-scopes": "workflows:run"}


async def test_all_rest_errors_have_the_same_format(web: httpx.AsyncClient) -> None:
    for headers, path, status, code in [
        ({}, "/api/v1/health", 401, "invalid_api_key"),
        (HEADERS, "/api/v1/health", 403, "permission_denied"),
        (HEADERS, "/api/v1/nothing", 404, "not_found"),
    ]:
        response = await web.get(path, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)
        assert response.json()["error"]["message"]
    response = await web.get("/api/v1/health/slos", headers=HEADERS | {"x-drw-scopes": "platform:read"})
    assert (response.status_code, response.json()["error"]["type"]) == (501, "not_implemented_error")


async def test_an_unsupported_method_is_a_405_that_names_the_supported_methods(web: httpx.AsyncClient) -> None:
    response = await web.put("/api/v1/health", headers=HEADERS)
    assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_allowed")
    assert response.json()["error"]["message"] == "/api/v1/health takes GET, HEAD, not PUT"
