"""Two data planes of one gateway, each with an agent, an Envoy, a folder and ports of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.data_plane import OPERATOR, Front, front_profile_of
from drw.agent.delivery import envoy
from drw.api.gateway.v1.authentication_pb2 import RevokeKeyRequest
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.kernel.rpc.context import acting_for
from support.parts import until

LIST = "/v1/models"


@pytest.fixture
async def second(front: Front, folder: Path) -> AsyncIterator[Front]:
    """Another data plane beside that of `front`."""
    plane = envoy.data_plane_settings(front_profile_of(front.profile, folder))
    own = plane.model_copy(update={"folder": front.profile.data / "second"})
    made = Front(front.profile.model_copy(update={"name": "second", "data_plane": own}))
    made.start_agent()
    try:
        await made.start_envoy()
        yield made
    finally:
        await made.stop()


async def status(front: Front, secret: str) -> int:
    async with front.client(secret) as client:
        return (await client.get(LIST)).status_code


async def all_run(front: Front) -> bool:
    """Return whether every data plane runs what the router wants, and refuses whom it should."""
    wanted, detail = await front.wanted(), (await front.router()).detail
    return detail.endswith(f"; data plane 'second' runs {wanted}; data plane 'test' runs {wanted}")


async def revoke(front: Front, key: str) -> None:
    with acting_for(OPERATOR):
        await front.host.client(AuthenticationClient).revoke_key(RevokeKeyRequest(id=key))


async def me(front: Front, secret: str) -> str:
    async with front.client(secret) as client:
        return str((await client.get("/api/v1/me")).json()["key"])


async def test_a_revocation_reaches_every_data_plane_and_the_status_names_them(front: Front, second: Any) -> None:
    secrets = [await front.key("models:read", "keys:read") for _ in range(2)]
    keys = [await me(front, secret) for secret in secrets]
    await until(lambda: all_run(front), "both data planes")
    assert [await status(plane, secrets[0]) for plane in (front, second)] == [200, 200]
    await revoke(front, keys[0])
    for plane in (front, second):

        async def refused(plane: Front = plane) -> bool:
            return await status(plane, secrets[0]) == 401

        await until(refused, "the revocation")
    await until(lambda: all_run(front), "both data planes")
    # One that is cut off goes on as it is, and the status says so.
    before = await front.wanted()
    await second.stop_agent()
    await revoke(front, keys[1])

    async def told() -> bool:
        wanted, detail = await front.wanted(), (await front.router()).detail
        late = f"data plane 'second' runs {before}, and has not applied all refusals yet; "
        return wanted != before and detail.endswith(f"{late}data plane 'test' runs {wanted}")

    await until(told, "the word of both")
    assert [await status(plane, secrets[1]) for plane in (front, second)] == [401, 200]
    second.start_agent()
    await until(lambda: all_run(front), "both data planes")
    assert [await status(plane, secrets[1]) for plane in (front, second)] == [401, 401]
