"""Callers with keys that are on record, so that it is known who made them."""

from __future__ import annotations

from typing import Any

from drw.api.gateway.v1.authentication_pb2 import CreateKeyRequest, Key, RotateKeyRequest
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.kernel.call import Caller, acting_for
from drw.kernel.host import Host
from drw.local.first_key import OPERATOR


async def issued(
    host: Host, *scopes: str, by: Caller = OPERATOR, org: str = "acme", desk: str = "research", **fields: Any
) -> Caller:
    """Let somebody make a key, by default the operator, and return who calls with it."""
    own = {} if org == by.org else {"org": org}
    wish = CreateKeyRequest(name="n", scopes=scopes, desk=desk, **own, **fields)
    with acting_for(by):
        return as_caller((await host.client(AuthenticationClient).create_key(wish)).key)


async def rotated(host: Host, who: Caller, by: Caller | None = None, overlap_seconds: int = 600) -> Caller:
    """Let somebody rotate a key, by default its holder, and return who calls with the successor."""
    with acting_for(by or who):
        wish = RotateKeyRequest(id=who.key, overlap_seconds=overlap_seconds, org=who.org)
        return as_caller((await host.client(AuthenticationClient).rotate_key(wish)).key)


def as_caller(key: Key) -> Caller:
    """Return who calls with a key."""
    return Caller(key.org, key.desk, key.id, frozenset(key.scopes), frozenset(key.walls))
