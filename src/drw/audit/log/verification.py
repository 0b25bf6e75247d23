"""Verifies the log as it runs: its files against their checkpoint, and the database against its files."""

from __future__ import annotations

import asyncio

from drw.audit.log import records
from drw.audit.log.store import Store
from drw.audit.tlog.damage import LogDamaged
from drw.audit.tlog.note import Verifier
from drw.audit.tlog.tiles import Read
from drw.audit.tlog.walk import Bundle, LogWalk

AT_ONCE = 16
"""Number of bundles that are read before each database query."""


class Verification:
    """One verification; `count` is the number of verified records, even if it fails early."""

    def __init__(self, store: Store, walk: LogWalk) -> None:
        self._store = store
        self._walk = walk
        self.count = 0

    @classmethod
    async def begin(cls, store: Store, read: Read, verifier: Verifier, earlier_note: str) -> Verification:
        """Read the checkpoint that everything is compared with."""
        return cls(store, await asyncio.to_thread(LogWalk, read, verifier, earlier_note))

    async def run(self) -> None:
        """Compare everything.

        Raises:
            LogDamaged: the first problem found.
        """
        bundles = self._walk.bundles()
        while some := await asyncio.to_thread(lambda: [b for b, _ in zip(bundles, range(AT_ONCE), strict=False)]):
            await self._compare_rows(some)
            self.count += sum(len(bundle.entries) for bundle in some)

    async def _compare_rows(self, bundles: list[Bundle]) -> None:
        start = bundles[0].start
        entries = [entry for bundle in bundles for entry in bundle.entries]
        rows = {row["index"]: row for row in await self._store.rows(start, start + len(entries))}
        for index, entry in enumerate(entries, start):
            if index not in rows:
                raise LogDamaged(f"record {index} is in the log, and not in the database")
            if column := records.difference(rows[index], entry):
                raise LogDamaged(f"record {index}: its {column!r} in the database is not what the log has")
