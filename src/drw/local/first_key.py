"""The first API key of a local platform, stored in the credentials file of the command line."""

from __future__ import annotations

import json
from contextlib import suppress

import aiohttp

from drw.api.gateway.v1.authentication_pb2 import (
    CreateKeyRequest,
    Desk,
    GetDeskRequest,
    GetOrgRequest,
    Org,
    PutDeskRequest,
    PutOrgRequest,
)
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.kernel.errors import NotFound, Unavailable
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from drw.kernel.rpc.transport import Channels
from drw.kernel.runtime.settings import Profile
from drw.local.credentials import write
from drw.local.paths import PlatformPaths

OPERATOR = Principal(org="local", desk="research", key="operator", scopes=frozenset(SCOPES))


async def ensure(layout: PlatformPaths, profile: Profile, channels: Channels) -> bool:
    """Ensure that a valid API key with every scope exists; return whether it is new.

    A key of an earlier release with fewer scopes is replaced, but stays valid.
    """
    assert profile.data_plane is not None, "a local profile has a data plane"
    url = f"http://{profile.data_plane.listen}"
    if layout.credentials.exists():
        stored = json.loads(layout.credentials.read_text(encoding="utf-8"))
        if await _scopes(url, stored["api_key"]) == frozenset(SCOPES):
            write(layout.credentials, url, stored["api_key"])
            return False
    with acting_for(OPERATOR):
        client = channels.client(AuthenticationClient, profile.address_of("authentication").grpc)
        await make_home(client)
        created = await client.create_key(
            CreateKeyRequest(
                name="first key of this platform",
                scopes=sorted(SCOPES),
                ttl_seconds=90 * 86400,
                requests_per_minute=6000,
            )
        )
    write(layout.credentials, url, created.secret)
    if not await _scopes(url, created.secret):
        raise Unavailable("the gateway does not take the key that was made for it; `drw logs agent` may say why")
    return True


async def make_home(client: AuthenticationClient) -> None:
    """Create the operator's org and desk, or give them every scope again.

    Titles and walls stay unchanged. No key is revoked, because scopes are only added.
    """
    everything = sorted(SCOPES)
    org = Org(name=OPERATOR.org, title="this machine")
    with suppress(NotFound):
        org = await client.get_org(GetOrgRequest(name=OPERATOR.org))
    if list(org.scopes) != everything:
        wider = PutOrgRequest(name=org.name, title=org.title, walls=org.walls, scopes=everything)
        await client.put_org(wider)
    desk = Desk(name=OPERATOR.desk)
    with suppress(NotFound):
        desk = await client.get_desk(GetDeskRequest(name=OPERATOR.desk))
    if list(desk.scopes) != everything:
        await client.put_desk(PutDeskRequest(name=desk.name, title=desk.title, walls=desk.walls, scopes=everything))


async def _scopes(url: str, key: str) -> frozenset[str]:
    """Return the scopes of the key, or an empty set if the gateway rejects it.

    Raises:
        Unavailable: the gateway does not answer. A key that may be valid is not replaced.
    """
    headers = {"authorization": f"Bearer {key}"}
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        try:
            async with session.get(f"{url}/api/v1/me", headers=headers) as answer:
                if answer.status < 500:
                    return frozenset((await answer.json())["scopes"] if answer.status == 200 else ())
                why = f"it answered {answer.status}"
        except (aiohttp.ClientError, TimeoutError) as error:
            why = str(error) or "it did not answer in time"
    raise Unavailable(f"the gateway cannot be asked about the first key: {why}; `drw logs envoy` may say why")
