"""Reports of the limits that each data plane enforces, and a wait until all of them enforce the newest change."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing, suppress

from drw.api.gateway.v1.rate_limiting_pb2 import ReportEnforcementRequest
from drw.gateway.rate_limiting.store import LimitStore

CHANNEL = "rate_limiting_enforced"
WAIT_SECONDS = 5.0
LIVE_SECONDS = 10.0
"""A data plane without a report for this time counts as stopped. Changes of limits do not wait for it."""
MAX_NAME = 100
MAX_DATA_PLANES = 1000

PUT = """
insert into data_plane values (%s, %s, now())
on conflict (name) do update set change = excluded.change, seen_at = excluded.seen_at
"""
BEHIND = """
select name from data_plane where change < %s and seen_at > now() - make_interval(secs => %s) order by name
"""


class EnforcementReports:
    """Reports of data planes. They are stored in the database, so any process of the service can wait for them."""

    def __init__(self, store: LimitStore) -> None:
        self._store = store
        self._database = store.database
        self._received = asyncio.Condition()
        self._received_count = 0

    async def record(self, request: ReportEnforcementRequest) -> None:
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

    async def wait_until_enforced(self) -> Sequence[str]:
        """Wait until every data plane enforces all changes so far, at most `WAIT_SECONDS`.

        Returns:
            The names of data planes that do not enforce them yet.
        """
        newest = await self._store.newest_change()
        count = self._received_count
        behind = await self._behind(newest)  # outside of the timeout, so that a slow database does not end with []
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_SECONDS):
                while behind:
                    await self._wait_for_report(count)
                    count = self._received_count
                    behind = await self._behind(newest)
        return behind

    async def follow(self) -> None:
        """Follow reports that any process received."""
        async with aclosing(self._database.notifications(CHANNEL)) as changes:
            async for _ in changes:
                async with self._received:
                    self._received_count += 1
                    self._received.notify_all()

    async def _wait_for_report(self, count: int) -> None:
        """Wait until another number than `count` of reports has been received."""
        async with self._received:
            await self._received.wait_for(lambda: self._received_count != count)

    async def _behind(self, change: int) -> Sequence[str]:
        """Return the data planes that do not enforce a change yet, sorted."""
        return [row["name"] for row in await self._database.all(BEHIND, change, LIVE_SECONDS)]
