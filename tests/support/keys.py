"""Callers with keys that are on record, so that it is known who made them, and what vouches for callers without."""

from __future__ import annotations

import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from drw.api.gateway.v1.authentication_pb2 import (
    CreateKeyRequest,
    Key,
    PutCertificateRequest,
    PutIssuerRequest,
    RotateKeyRequest,
)
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.gateway.v1.rate_limiting_pb2 import AnnounceKeysRequest, KeyOwner
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.host import Host
from drw.local.first_key import OPERATOR


async def issued(
    host: Host, *scopes: str, by: Principal = OPERATOR, org: str = "acme", desk: str = "research", **fields: Any
) -> Principal:
    """Let somebody make a key, by default the operator, and return who calls with it."""
    own: dict[str, Any] = {} if org == by.org else {"org": org}
    wish = CreateKeyRequest(name="n", scopes=scopes, desk=desk, **own, **fields)
    with acting_for(by):
        return as_caller((await host.client(AuthenticationClient).create_key(wish)).key)


async def rotated(host: Host, who: Principal, by: Principal | None = None, overlap_seconds: int = 600) -> Principal:
    """Let somebody rotate a key, by default its holder, and return who calls with the successor."""
    with acting_for(by or who):
        wish = RotateKeyRequest(id=who.key, overlap_seconds=overlap_seconds, org=who.org)
        return as_caller((await host.client(AuthenticationClient).rotate_key(wish)).key)


async def vouch(host: Host, caller: str) -> None:
    """Put the issuer of a caller as in "oidc:corp:ann", or the certificate of one as in "cert:runner"."""
    kind, name, *_ = caller.split(":")
    client = host.client(AuthenticationClient)
    with acting_for(OPERATOR):
        if kind == "cert":
            wish = PutCertificateRequest(name=name, san=f"spiffe://{name}/x", org="acme", desk="research")
            wish.scopes.append("models:read")
            await client.put_certificate(wish)
        else:
            public = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True)
            keys = json.dumps({"keys": [public | {"kid": "k0"}]})
            fields: dict[str, Any] = {"issuer": f"https://{name}", "org": "acme", "audiences": ["a"], "jwks": keys}
            await client.put_issuer(PutIssuerRequest(name=name, **fields))


def as_caller(key: Key) -> Principal:
    """Return who calls with a key."""
    return Principal(key.org, key.desk, key.id, frozenset(key.scopes), frozenset(key.walls))


async def announce(client: RateLimitingClient, *keys: str, org: str = "acme", desk: str = "research") -> None:
    """Make keys known as those of a desk to rate limiting, as the authentication service does in a platform."""
    owners = [KeyOwner(key=key, org=org, desk=desk) for key in keys]
    await client.announce_keys(AnnounceKeysRequest(owners=owners))
