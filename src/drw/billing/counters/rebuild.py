"""Rebuild of the counters after Valkey lost its data, from the ledger and the reservations of live processes."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from drw.billing.counters.client import Counters
from drw.billing.ledger.sums import counters_by_ledger
from drw.kernel.storage.database import Connection, Database

log = logging.getLogger(__name__)

REBUILD_LOCK = 0x6D6F6E  # "mon"
# A copy of the ledger has the same id, but a database restored from it has another timeline, cluster or table.
LEDGER_ID = """
select concat_ws('-', id, (select system_identifier from pg_control_system()),
                 left(pg_walfile_name(pg_current_wal_lsn()), 8), 'metering.ledger'::regclass::oid) as name
from metering.book
"""


class CounterRebuild:
    """Detects a loss of the counters and rebuilds them.

    `clock` is monotonic, in seconds. The rebuild waits at most `lease_seconds` for processes that do not respond.
    Nothing can be reserved until it ends, so that budgets cannot be exceeded.
    """

    def __init__(
        self,
        counters: Counters,
        database: Database,
        push_caps: Callable[[], Any],
        newest_change: Callable[[], Awaitable[int]],
        lease_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counters = counters
        self._database = database
        self._push_caps = push_caps
        self._newest_change = newest_change
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._rebuild_started: float | None = None
        self._ledger_id = ""

    async def tick(self) -> bool:
        """Rebuild the counters if they are closed; return whether they are open."""
        if await self.check():
            self._rebuild_started = None
            return True
        if self._rebuild_started is None:
            self._rebuild_started = self._clock()
            log.warning("the counters are lost: rebuilding them from the ledger")
        async with self._database.transaction() as connection:
            row = await (
                await connection.execute("select pg_try_advisory_xact_lock(%s) as ok", (REBUILD_LOCK,))
            ).fetchone()
            return bool(row and row["ok"]) and await self._rebuild()

    async def check(self) -> bool:
        """Return whether the counters are open. Delete counters of another ledger, or of a later state of this one."""
        # Read before the database: concurrent changes only increase the version there.
        epoch, version = await self._counters.epoch(), await self._counters.caps_version()
        row = await self._database.one(LEDGER_ID)
        self._ledger_id = row["name"] if row else ""
        if (epoch and not epoch.startswith(f"{self._ledger_id}.")) or version > await self._newest_change():
            log.warning("the counters belong to another ledger: deleting them")
            await self._counters.delete_all()
            return False
        return bool(epoch)

    async def _rebuild(self) -> bool:
        await self._push_caps()
        # Before the snapshot: it contains earlier settlements, and `open` sees later ones.
        changes, processes, reservations = await self._counters.survey()
        async with self._database.transaction(seconds=None) as connection:
            await connection.execute("set transaction isolation level repeatable read")
            return await self._from_ledger(connection, changes, processes, reservations)

    async def _from_ledger(
        self, connection: Connection, changes: str, processes: set[str], reservations: set[str]
    ) -> bool:
        holders = {row["id"] for row in await _rows(connection, "select id from metering.holder")}
        assert self._rebuild_started is not None
        if holders - processes and self._clock() - self._rebuild_started < self._lease_seconds:
            return False
        now = datetime.fromtimestamp(self._counters.now_ms() / 1000, UTC)
        await self._counters.load(await counters_by_ledger(connection, now))
        query = "select id from metering.ledger where id = any(%s)"
        settled = [row["id"] for row in await _rows(connection, query, (list(reservations),))]
        posted = [row["id"] for row in await _rows(connection, "select id from metering.ledger where not posted")]
        if not await self._counters.open(f"{self._ledger_id}.{secrets.token_hex(8)}", changes, settled, posted):
            return False
        await connection.execute("update metering.ledger set posted = true where id = any(%s)", (posted,))
        ended = list(holders - processes)
        await connection.execute("delete from metering.holder where id = any(%s)", (ended,))
        log.warning(
            "the counters are rebuilt", extra={"fields": {"reservations": len(reservations), "lost": len(ended)}}
        )
        return True


async def _rows(connection: Connection, query: Any, args: Any = None) -> Sequence[dict[str, Any]]:
    return await (await connection.execute(query, args)).fetchall()
