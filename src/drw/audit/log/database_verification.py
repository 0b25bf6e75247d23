"""Verification of the running log: its files against the signed checkpoint, and the database against the files.

`drw.audit.offline` verifies the files alone.
"""

from __future__ import annotations

import asyncio

from drw.audit.log import records
from drw.audit.log.store import Store
from drw.audit.tlog.damage import LogDamaged
from drw.audit.tlog.file_verification import Bundle, FileVerification

BUNDLES_PER_QUERY = 16
"""Number of bundles read before each database query."""


class DatabaseVerification:
    """Verifies files and database; `count` is the number of verified records, even if the verification fails."""

    def __init__(self, store: Store, files: FileVerification) -> None:
        self._store = store
        self._files = files
        self.count = 0

    async def run(self) -> None:
        """Verify the whole log.

        Raises:
            LogDamaged: the first problem.
        """
        bundles = self._files.bundles()
        while batch := await asyncio.to_thread(
            lambda: [b for b, _ in zip(bundles, range(BUNDLES_PER_QUERY), strict=False)]
        ):
            await self._compare_rows(batch)
            self.count += sum(len(bundle.entries) for bundle in batch)

    async def _compare_rows(self, bundles: list[Bundle]) -> None:
        start = bundles[0].start
        entries = [entry for bundle in bundles for entry in bundle.entries]
        rows = {row["index"]: row for row in await self._store.rows(start, start + len(entries))}
        for index, entry in enumerate(entries, start):
            if index not in rows:
                raise LogDamaged(f"record {index} is in the log, and not in the database")
            if column := records.difference(rows[index], entry):
                raise LogDamaged(f"record {index}: its {column!r} in the database is not what the log has")
