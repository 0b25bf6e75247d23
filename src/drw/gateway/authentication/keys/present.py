"""The present permissions of a caller: its key, certificate or issuer as it is now."""

from __future__ import annotations

from datetime import UTC, datetime

from drw.api.gateway.v1.authentication_pb2 import Permissions
from drw.gateway.authentication.keys.store import KeyStore, View
from drw.gateway.authentication.tenants import queries
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal

CERTIFICATE, ISSUER = "cert", "oidc"


async def permissions(store: KeyStore) -> Permissions:
    """Return the present permissions of the caller. Callers that are not on record have none."""
    principal = context.caller()
    kind, _, name = principal.key.partition(":")
    if kind == CERTIFICATE:
        return await _of_certificate(store, principal, name)
    if kind == ISSUER:
        return await _of_issuer(store, principal, name.partition(":")[0])
    row = await store.get(View(principal.org, principal.desk, whole_org=False), principal.key)
    if row is None:
        return Permissions(ended="does not exist")
    if row["revoked_at"]:
        return Permissions(ended="is revoked")
    if row["expires_at"] <= datetime.now(UTC):
        return Permissions(ended="has expired")
    return Permissions(scopes=row["scopes"], walls=row["walls"])


async def _of_certificate(store: KeyStore, principal: Principal, name: str) -> Permissions:
    row = await store.database.one(
        "select scopes, walls from certificate where name = %s and org = %s and desk = %s",
        *(name, principal.org, principal.desk),
    )
    return Permissions(scopes=row["scopes"], walls=row["walls"]) if row else Permissions(ended="does not exist")


async def _of_issuer(store: KeyStore, principal: Principal, name: str) -> Permissions:
    """Return the permissions of the desk: the roles of a caller are in its token only."""
    query = "select 1 from issuer where name = %s and org = %s"
    if await store.database.one(query, name, principal.org) is None:
        return Permissions(ended="is of an issuer that does not exist")
    async with store.database.transaction() as connection:
        desk = await queries.desk(connection, principal.org, principal.desk)
    if desk is None:
        return Permissions(ended="is of a desk that does not exist")
    return Permissions(scopes=desk.scopes, walls=desk.walls)
