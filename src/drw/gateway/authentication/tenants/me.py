"""Who the caller is, as the platform sees it."""

from __future__ import annotations

from drw.api.gateway.v1.authentication_pb2 import Me
from drw.gateway.authentication.keys.store import KeyStore, View
from drw.kernel.rpc import context

WAYS = {"key_": Me.KEY, "oidc:": Me.ISSUER, "cert:": Me.CERTIFICATE}
"""What the id of a caller begins with, by the way in which it was identified."""


async def me(store: KeyStore) -> Me:
    """Return the caller of the present request."""
    principal = context.caller()
    caller = Me(
        org=principal.org,
        desk=principal.desk,
        key=principal.key,
        scopes=sorted(principal.scopes),
        walls=sorted(principal.walls),
    )
    caller.identified_by = next((way for start, way in WAYS.items() if principal.key.startswith(start)), Me.OPERATOR)
    if caller.identified_by == Me.KEY and (row := await store.get(View.of(principal, principal.org), principal.key)):
        caller.expires_at.FromDatetime(row["ends_at"] or row["expires_at"])
    return caller
