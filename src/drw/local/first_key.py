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


async def ensure_key(paths: PlatformPaths, profile: Profile, channels: Channels) -> bool:
    """Ensure that a valid API key with every scope exists; return whether it is new.

    A key of an earlier release with fewer scopes is replaced, but stays valid.
    """
    assert profile.data_plane is not None, "a local profile has a data plane"
    url = f"http://{profile.data_plane.listen}"
    if paths.credentials.exists():
        stored = json.loads(paths.credentials.read_text(encoding="utf-8"))
        if await _scopes(url, stored["api_key"]) == frozenset(SCOPES):
            write(paths.credentials, url, stored["api_key"])
            return False
    secret = await create(channels, profile.address_of("authentication").grpc)
    write(paths.credentials, url, secret)
    if not await _scopes(url, secret):
        raise Unavailable("the gateway rejects its new first key; see `drw logs agent`")
    return True


async def create(channels: Channels, address: str) -> str:
    """Return a new API key with every scope, from authentication at an address for gRPC."""
    with acting_for(OPERATOR):
        client = channels.client(AuthenticationClient, address)
        await ensure_home(client)
        created = await client.create_key(
            CreateKeyRequest(
                name="first key of this platform",
                scopes=sorted(SCOPES),
                ttl_seconds=90 * 86400,
                requests_per_minute=6000,
            )
        )
    return created.secret


async def ensure_home(client: AuthenticationClient) -> None:
    """Create the operator's org and desk, or give them every scope again.

    Titles and walls stay unchanged. No key is revoked, because scopes are only added.
    """
    all_scopes = sorted(SCOPES)
    org = Org(name=OPERATOR.org, title="this machine")
    with suppress(NotFound):
        org = await client.get_org(GetOrgRequest(name=OPERATOR.org))
    if list(org.scopes) != all_scopes:
        update = PutOrgRequest(name=org.name, title=org.title, walls=org.walls, scopes=all_scopes)
        await client.put_org(update)
    desk = Desk(name=OPERATOR.desk)
    with suppress(NotFound):
        desk = await client.get_desk(GetDeskRequest(name=OPERATOR.desk))
    if list(desk.scopes) != all_scopes:
        await client.put_desk(PutDeskRequest(name=desk.name, title=desk.title, walls=desk.walls, scopes=all_scopes))


async def _scopes(url: str, key: str) -> frozenset[str]:
    """Return the scopes of the key, or an empty set if the gateway rejects it.

    Raises:
        Unavailable: the gateway does not answer. A key that may be valid is not replaced.
    """
    headers = {"authorization": f"Bearer {key}"}
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        try:
            async with session.get(f"{url}/api/v1/me", headers=headers) as response:
                if response.status < 500:
                    return frozenset((await response.json())["scopes"] if response.status == 200 else ())
                problem = f"it answered {response.status}"
        except (aiohttp.ClientError, TimeoutError) as error:
            problem = str(error) or "it did not answer in time"
    raise Unavailable(f"cannot check the first key at the gateway: {problem}; see `drw logs envoy`")
