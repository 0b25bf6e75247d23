"""Callers with issued keys, and the issuers and certificates of callers without keys."""

from __future__ import annotations

import json

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
from support.json_types import Json, JsonObject


async def issued(
    host: Host, *scopes: str, by: Principal = OPERATOR, org: str = "acme", desk: str = "research", **fields: Json
) -> Principal:
    """Create a key, by default as the operator, and return its principal."""
    org_fields: JsonObject = {} if org == by.org else {"org": org}
    request = CreateKeyRequest(name="n", scopes=scopes, desk=desk, **org_fields, **fields)
    with acting_for(by):
        return as_caller((await host.client(AuthenticationClient).create_key(request)).key)


async def rotated(
    host: Host, principal: Principal, by: Principal | None = None, overlap_seconds: int = 600
) -> Principal:
    """Rotate a key, by default as its owner, and return the principal of the successor."""
    with acting_for(by or principal):
        request = RotateKeyRequest(id=principal.key, overlap_seconds=overlap_seconds, org=principal.org)
        return as_caller((await host.client(AuthenticationClient).rotate_key(request)).key)


async def register_identity(host: Host, caller: str) -> None:
    """Create the issuer of a caller such as "oidc:corp:ann", or the certificate of one such as "cert:runner"."""
    kind, name, *_ = caller.split(":")
    client = host.client(AuthenticationClient)
    with acting_for(OPERATOR):
        if kind == "cert":
            request = PutCertificateRequest(name=name, san=f"spiffe://{name}/x", org="acme", desk="research")
            request.scopes.append("models:read")
            await client.put_certificate(request)
        else:
            public_key = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True)
            keys = json.dumps({"keys": [public_key | {"kid": "k0"}]})
            fields: JsonObject = {"issuer": f"https://{name}", "org": "acme", "audiences": ["a"], "jwks": keys}
            await client.put_issuer(PutIssuerRequest(name=name, **fields))


def as_caller(key: Key) -> Principal:
    """Return the principal of a key."""
    return Principal(key.org, key.desk, key.id, frozenset(key.scopes), frozenset(key.walls))


async def announce(client: RateLimitingClient, *keys: str, org: str = "acme", desk: str = "research") -> None:
    """Announce keys of a desk to rate limiting, as the authentication service does."""
    owners = [KeyOwner(key=key, org=org, desk=desk) for key in keys]
    await client.announce_keys(AnnounceKeysRequest(owners=owners))
