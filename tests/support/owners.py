"""Announces keys to a rate limiting service without the authentication service, which does it in a platform."""

from __future__ import annotations

from drw.api.gateway.v1.rate_limiting_pb2 import AnnounceKeysRequest, KeyOwner
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient


async def announce(client: RateLimitingClient, *keys: str, org: str = "acme", desk: str = "research") -> None:
    """Make keys known as those of a desk."""
    owners = [KeyOwner(key=key, org=org, desk=desk) for key in keys]
    await client.announce_keys(AnnounceKeysRequest(owners=owners))
