"""Announces the org and desk of each key, certificate and issuer to rate limiting."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from drw.api.gateway.v1.rate_limiting_pb2 import AnnounceKeysRequest, KeyOwner
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.gateway.authentication.tenants.queries import CHANNEL
from drw.kernel.storage.database import Database

BATCH_SIZE = 1000
KEYS = """
select number, id as key, org, desk, expires_at from key
where number > %s and expires_at > now() order by number limit %s
"""
EXTERNAL_CALLERS = """
select 'cert:' || name as key, org, desk from certificate
union all select 'oidc:' || name || ':', org, '' from issuer
"""


class KeyAnnouncer:
    """Announces keys, certificates and issuers to rate limiting at start, and certificates and issuers after each
    change.

    New keys are announced before they become valid: see `Keys`.
    """

    def __init__(self, database: Database, limits: RateLimitingClient) -> None:
        self._database = database
        self._limits = limits

    async def run(self) -> None:
        """Announce all entries, then follow changes."""
        await self._announce_keys()
        announced: Sequence[dict[str, Any]] | None = None
        async with aclosing(self._database.notifications(CHANNEL)) as changes:
            async for _ in changes:
                rows = await self._database.all(f"{EXTERNAL_CALLERS} order by key")
                if rows != announced:
                    await self._announce(rows, external=True)
                    announced = rows

    async def _announce_keys(self) -> None:
        last = 0
        while rows := await self._database.all(KEYS, last, BATCH_SIZE):
            await self._announce(rows)
            last = rows[-1]["number"]

    async def _announce(self, rows: Sequence[dict[str, Any]], *, external: bool = False) -> None:
        owners = [KeyOwner(key=row["key"], org=row["org"], desk=row["desk"]) for row in rows]
        for owner, row in zip(owners, rows, strict=True):
            if end := row.get("expires_at"):
                owner.expires_at.FromDatetime(end)
        await self._limits.announce_keys(AnnounceKeysRequest(owners=owners, external=external))
