"""The first API key of a local platform, kept where the command line finds it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from drw.api.gateway.v1.authentication_pb2 import CreateKeyRequest
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.kernel.call import SCOPES, Caller, acting_for
from drw.kernel.errors import NotFound, Unavailable
from drw.kernel.rpc import Channels
from drw.kernel.settings import Profile
from drw.local.layout import Layout

OPERATOR = Caller(org="local", desk="research", key="operator", scopes=frozenset(SCOPES))


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where the gateway is, and a key for it."""

    url: str
    key: str

    @classmethod
    def read(cls, layout: Layout) -> Credentials:
        """Read the credentials of a local platform, or those that the environment gives."""
        if (url := os.environ.get("DRW_URL")) and (key := os.environ.get("DRW_API_KEY")):
            return cls(url.rstrip("/"), key)
        try:
            kept = json.loads(layout.credentials.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise NotFound(
                f"no platform was started in {layout.data}: start one with `drw up`, or set DRW_URL and DRW_API_KEY"
            ) from None
        return cls(kept["url"], kept["api_key"])


async def ensure(layout: Layout, profile: Profile, channels: Channels) -> None:
    """Make sure that there is a key that the gateway takes, and write it down."""
    assert profile.data_plane is not None, "a local profile has a data plane"
    url = f"http://{profile.data_plane.listen}"
    if layout.credentials.exists():
        kept = json.loads(layout.credentials.read_text(encoding="utf-8"))
        if await _accepted(url, kept["api_key"]):
            write(layout.credentials, url, kept["api_key"])
            return
    with acting_for(OPERATOR):
        client = channels.client(AuthenticationClient, profile.place("authentication").grpc)
        made = await client.create_key(
            CreateKeyRequest(
                name="first key of this platform",
                scopes=sorted(SCOPES),
                ttl_seconds=90 * 86400,
                requests_per_minute=6000,
            )
        )
    write(layout.credentials, url, made.secret)
    if not await _accepted(url, made.secret):
        raise Unavailable("the gateway does not take the key that was made for it; `drw logs agent` may say why")


def write(file: Path, url: str, key: str) -> None:
    """Write the credentials, for this user alone."""
    new = file.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(json.dumps({"url": url, "api_key": key}), encoding="utf-8")
    new.replace(file)


async def _accepted(url: str, key: str) -> bool:
    headers = {"authorization": f"Bearer {key}"}
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        try:
            async with session.get(f"{url}/api/v1/keys", headers=headers) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False
