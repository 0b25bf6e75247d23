"""The caller of a request: its org, desk, scopes, walls and kind of credential."""

from __future__ import annotations

from drw.api.gateway.v1.authentication_pb2 import Me
from drw.gateway.authentication.keys.store import KeyStore, View
from drw.kernel.rpc import context

CREDENTIAL_KINDS = {"key_": Me.KEY, "oidc:": Me.ISSUER, "cert:": Me.CERTIFICATE}
"""Kinds of credentials by the prefix of the caller's id."""


async def me(store: KeyStore) -> Me:
    """Return the caller of the current request."""
    principal = context.caller()
    caller = Me(
        org=principal.org,
        desk=principal.desk,
        key=principal.key,
        scopes=sorted(principal.scopes),
        walls=sorted(principal.walls),
    )
    kinds = (kind for prefix, kind in CREDENTIAL_KINDS.items() if principal.key.startswith(prefix))
    caller.identified_by = next(kinds, Me.OPERATOR)
    if caller.identified_by == Me.KEY and (row := await store.get(View.of(principal, principal.org), principal.key)):
        caller.expires_at.FromDatetime(row["ends_at"] or row["expires_at"])
    return caller
