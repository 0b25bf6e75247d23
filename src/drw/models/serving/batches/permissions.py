"""The present permissions of a batch's creator: a revoked key or a lost scope applies to requests that run later."""

from __future__ import annotations

import time

from drw.api.gateway.v1.authentication_pb2 import GetPermissionsRequest, Permissions
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.kernel.errors import Forbidden
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.models.serving.batches.batch import Batch

CACHE_SECONDS = 1.0
MAX_CACHED = 10_000


class CredentialEnded(Forbidden):
    """The credential that created the batch is not valid any more, or has fewer permissions than the batch needs."""


class PresentPermissions:
    """Asks authentication; without that service, creators keep the permissions that they had."""

    def __init__(self, authentication: AuthenticationClient | None) -> None:
        self._authentication = authentication
        self._cache: dict[Principal, tuple[float, Permissions]] = {}

    async def check(self, principal: Principal) -> None:
        """Check that a caller has a credential on record, whose permissions can be asked for later.

        Raises:
            CredentialEnded: it has none.
        """
        if (await self._ask(principal)).ended:
            raise CredentialEnded(f"{principal.key[:80]!r} is not on record: batches need an API key")

    async def principal(self, batch: Batch) -> Principal:
        """Return the creator with its present scopes, inside the walls of the batch.

        Raises:
            CredentialEnded: its credential has ended, or is outside the walls of the batch now.
        """
        created_by = Principal(batch.org, batch.desk, batch.key, frozenset(batch.scopes), frozenset(batch.walls))
        present = await self._ask(created_by)
        if present.ended:
            raise CredentialEnded(f"{batch.key!r}, which created the batch, {present.ended}", code="credential_ended")
        if not frozenset(present.walls).issuperset(batch.walls):
            raise CredentialEnded(f"{batch.key!r}, which created the batch, is outside of its walls now")
        # A caller with roles of an issuer can have fewer scopes than its desk.
        scopes = frozenset(present.scopes) & created_by.scopes
        return Principal(batch.org, batch.desk, batch.key, scopes, frozenset(batch.walls))

    async def _ask(self, principal: Principal) -> Permissions:
        if self._authentication is None:
            return Permissions(scopes=sorted(principal.scopes), walls=sorted(principal.walls))
        now = time.monotonic()
        cached = self._cache.get(principal)
        if cached and now < cached[0]:
            return cached[1]
        with context.acting_for(principal):
            present = await self._authentication.get_permissions(GetPermissionsRequest())
        if len(self._cache) >= MAX_CACHED:
            self._cache.clear()
        self._cache[principal] = now + CACHE_SECONDS, present
        return present
