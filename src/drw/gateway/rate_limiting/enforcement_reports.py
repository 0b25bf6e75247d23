"""Which change of the limits each data plane enforces, and waiting until all of them enforce the newest."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing, suppress

from drw.api.gateway.v1.rate_limiting_pb2 import ReportEnforcementRequest
from drw.kernel.storage.database import Database

CHANNEL = "rate_limiting_enforced"
WAIT_SECONDS = 5.0
LIVE_SECONDS = 10.0
"""A data plane without a report for this time is considered gone and is not waited for."""
MAX_NAME = 100
MAX_DATA_PLANES = 1000

PUT = """
insert into data_plane values (%s, %s, now())
on conflict (name) do update set change = excluded.change, seen_at = excluded.seen_at
"""
LATE = """
select name from data_plane where change < %s and seen_at > now() - make_interval(secs => %s) order by name
"""


class Enforcement:
    """Reports of data planes, in the database, so that any process of the service can wait for them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._news = asyncio.Condition()
        self._heard = 0

    async def report(self, request: ReportEnforcementRequest) -> None:
        """Store reports and wake waiting requests."""
        changes = {p.name: p.change for p in request.data_planes[:MAX_DATA_PLANES] if 0 < len(p.name) <= MAX_NAME}
        async with self._database.transaction() as connection:
            rows = await (await connection.execute("select name, change from data_plane")).fetchall()
            for name, change in sorted(changes.items()):
                await connection.execute(PUT, (name, change))
            await connection.execute("delete from data_plane where name = any(%s)", (list(request.gone),))
            before = {row["name"]: row["change"] for row in rows}
            if changes.items() - before.items() or not before.keys().isdisjoint(request.gone):
                await connection.execute(f"notify {CHANNEL}".encode())

    async def wait(self) -> Sequence[str]:
        """Return once every data plane enforces all changes so far, or which ones do not after WAIT_SECONDS."""
        newest = await self._newest()
        heard = self._heard
        late = await self._late(newest)  # first, so that a database that is slow is never taken for "all of them"
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_SECONDS):
                while late:
                    await self._hear_after(heard)
                    heard = self._heard
                    late = await self._late(newest)
        return late

    async def follow(self) -> None:
        """Follow reports that any process received."""
        async with aclosing(self._database.notifications(CHANNEL)) as changes:
            async for _ in changes:
                async with self._news:
                    self._heard += 1
                    self._news.notify_all()

    async def _hear_after(self, heard: int) -> None:
        async with self._news:
            await self._news.wait_for(lambda: self._heard != heard)

    async def _newest(self) -> int:
        row = await self._database.one("select number from change")
        return int(row["number"]) if row else 0

    async def _late(self, change: int) -> Sequence[str]:
        return [row["name"] for row in await self._database.all(LATE, change, LIVE_SECONDS)]
