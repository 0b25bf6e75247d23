"""Two data planes of one gateway, each with its own agent, Envoy, folder and ports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.data_plane import OPERATOR, GatewayHarness, with_data_plane
from drw.agent.delivery import envoy
from drw.api.gateway.v1.authentication_pb2 import RevokeKeyRequest
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.kernel.rpc.context import acting_for
from support.parts import until

LIST = "/v1/models"


@pytest.fixture
async def second_plane(gateway: GatewayHarness, folder: Path) -> AsyncIterator[GatewayHarness]:
    """A second data plane beside that of `gateway`."""
    plane = envoy.data_plane_settings(with_data_plane(gateway.profile, folder))
    settings = plane.model_copy(update={"folder": gateway.profile.data / "second"})
    harness = GatewayHarness(gateway.profile.model_copy(update={"name": "second", "data_plane": settings}))
    harness.start_agent()
    try:
        await harness.start_envoy()
        yield harness
    finally:
        await harness.stop()


async def status(gateway: GatewayHarness, secret: str) -> int:
    async with gateway.client(secret) as client:
        return (await client.get(LIST)).status_code


async def all_planes_apply_the_newest(gateway: GatewayHarness) -> bool:
    """Return whether both data planes run the desired version and enforce its deny list."""
    version, detail = await gateway.desired_version(), (await gateway.router_status()).detail
    return detail.endswith(f"; data plane 'second' runs {version}; data plane 'test' runs {version}")


async def revoke(gateway: GatewayHarness, key: str) -> None:
    with acting_for(OPERATOR):
        await gateway.host.client(AuthenticationClient).revoke_key(RevokeKeyRequest(id=key))


async def key_id(gateway: GatewayHarness, secret: str) -> str:
    async with gateway.client(secret) as client:
        return str((await client.get("/api/v1/me")).json()["key"])


async def test_revocation_reaches_every_data_plane_and_the_status_reports_each(
    gateway: GatewayHarness, second_plane: GatewayHarness
) -> None:
    secrets = [await gateway.create_key("models:read", "keys:read") for _ in range(2)]
    keys = [await key_id(gateway, secret) for secret in secrets]
    await until(lambda: all_planes_apply_the_newest(gateway), "both data planes")
    assert [await status(plane, secrets[0]) for plane in (gateway, second_plane)] == [200, 200]
    await revoke(gateway, keys[0])
    for plane in (gateway, second_plane):

        async def is_rejected(plane: GatewayHarness = plane) -> bool:
            return await status(plane, secrets[0]) == 401

        await until(is_rejected, "the revocation")
    await until(lambda: all_planes_apply_the_newest(gateway), "both data planes")
    # A disconnected data plane keeps running its version, and the status reports the lag.
    before = await gateway.desired_version()
    await second_plane.stop_agent()
    await revoke(gateway, keys[1])

    async def status_reports_the_lag() -> bool:
        version, detail = await gateway.desired_version(), (await gateway.router_status()).detail
        lag = f"data plane 'second' runs {before}, and has not applied all refusals yet; "
        return version != before and detail.endswith(f"{lag}data plane 'test' runs {version}")

    await until(status_reports_the_lag, "the status of both data planes")
    assert [await status(plane, secrets[1]) for plane in (gateway, second_plane)] == [401, 200]
    second_plane.start_agent()
    await until(lambda: all_planes_apply_the_newest(gateway), "both data planes")
    assert [await status(plane, secrets[1]) for plane in (gateway, second_plane)] == [401, 401]
