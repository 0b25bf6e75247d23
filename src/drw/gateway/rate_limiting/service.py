"""Keeps each caller's limits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC
from typing import Any

from pydantic import Field

from drw.api.gateway.v1 import rate_limiting_rpc as contract
from drw.api.gateway.v1.rate_limiting_pb2 import Limit, Limits, ListLimitsRequest, WatchLimitsRequest
from drw.kernel import call
from drw.kernel.audit import AuditWriter
from drw.kernel.database import Database
from drw.kernel.errors import Forbidden, InvalidRequest
from drw.kernel.host import Scope
from drw.kernel.settings import Settings as Base

CHANNEL = "rate_limiting_changed"
MAX_PER_MINUTE = 1_000_000
MAX_NAME = 100


class Settings(Base):
    """What a key may do that has no limit of its own."""

    default_requests_per_minute: int = Field(600, ge=1, le=MAX_PER_MINUTE)


class RateLimiting(contract.RateLimiting):
    """Serves `drw.api.gateway.v1.RateLimiting`."""

    def __init__(self, settings: Settings, database: Database, audit: AuditWriter) -> None:
        self._settings = settings
        self._database = database
        self._audit = audit

    async def set_limit(self, request: Limit, /) -> Limit:
        """SetLimit sets the limit of one key of the caller's org."""
        _check(request)
        async with self._database.transaction() as connection:
            changed = await connection.execute(
                """
                insert into key_limit (key, org, desk, requests_per_minute, expires_at) values (%s, %s, %s, %s, %s)
                on conflict (key) do update
                set requests_per_minute = excluded.requests_per_minute, expires_at = excluded.expires_at
                where key_limit.org = excluded.org
                """,
                (
                    request.key,
                    request.org,
                    request.desk,
                    request.requests_per_minute,
                    request.expires_at.ToDatetime(UTC),
                ),
            )
            if not changed.rowcount:
                raise Forbidden(f"the key {request.key!r} belongs to another org")
            details = {"requests_per_minute": request.requests_per_minute}
            await self._audit.record("limit.set", f"key/{request.key}", details=details, connection=connection)
            await connection.execute(f"notify {CHANNEL}".encode())
        return request

    async def list_limits(self, request: ListLimitsRequest, /) -> Limits:
        """ListLimits lists the limits of the caller's org and the default."""
        who = call.caller()
        query = "select * from key_limit where org = %s and (desk = %s or %s) and expires_at > now() order by key"
        return self._limits(await self._database.all(query, who.org, who.desk, "org:admin" in who.scopes))

    async def watch_limits(self, request: WatchLimitsRequest, /) -> AsyncIterator[Limits]:
        """WatchLimits sends all limits: now, and after each change."""
        async with aclosing(self._database.notifications(CHANNEL)) as changes:
            async for _ in changes:
                yield self._limits(
                    await self._database.all("select * from key_limit where expires_at > now() order by key")
                )

    async def detail(self) -> str:
        """Return how many limits there are."""
        row = await self._database.one("select count(*) as n from key_limit where expires_at > now()")
        own = row["n"] if row else 0
        return f"{own} keys with a limit of their own; {self._settings.default_requests_per_minute} requests a minute"

    def _limits(self, rows: list[dict[str, Any]]) -> Limits:
        default = self._settings.default_requests_per_minute
        return Limits(default_requests_per_minute=default, limits=[_limit(row) for row in rows])


def _check(limit: Limit) -> None:
    who = call.caller()
    if limit.org != who.org:
        raise Forbidden(f"the caller belongs to the org {who.org!r}, not to {limit.org!r}")
    if limit.desk != who.desk:
        who.must_hold("org:admin")
    if not 0 < len(limit.key) <= MAX_NAME:
        raise InvalidRequest(f"the id of a key has 1 to {MAX_NAME} characters", param="key")
    if not 1 <= limit.requests_per_minute <= MAX_PER_MINUTE:
        wrong = limit.requests_per_minute
        raise InvalidRequest(
            f"requests_per_minute is {wrong}; it can be 1 to {MAX_PER_MINUTE}", param="requests_per_minute"
        )
    if not limit.HasField("expires_at"):
        raise InvalidRequest("a limit needs expires_at, the end of its key", param="expires_at")


def _limit(row: dict[str, Any]) -> Limit:
    limit = Limit(key=row["key"], requests_per_minute=row["requests_per_minute"], org=row["org"], desk=row["desk"])
    limit.expires_at.FromDatetime(row["expires_at"])
    return limit


async def build(scope: Scope) -> RateLimiting:
    """Make the service with what the configuration names."""
    service = RateLimiting(scope.settings(Settings), await scope.database(), scope.audit())
    scope.describe(service.detail)
    return service
