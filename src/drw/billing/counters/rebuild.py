"""Rebuilds the counters after Valkey lost its data: from the ledger and the reservations of live processes."""

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

LOCK = 0x6D6F6E  # "mon"
# A copy has the same id: a database that was put back from it has another timeline, cluster or table.
BOOK = """
select concat_ws('-', id, (select system_identifier from pg_control_system()),
                 left(pg_walfile_name(pg_current_wal_lsn()), 8), 'metering.ledger'::regclass::oid) as name
from metering.book
"""


class CounterRebuild:
    """Detects a loss, and rebuilds. `clock` is monotonic, in seconds; a silent process is waited for `lease_seconds`.

    While this has not ended nothing can be reserved, so that no more can be spent than the ledger knows of.
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
        self._since: float | None = None
        self._book = ""

    async def tick(self) -> bool:
        """Take the next step of a rebuild, if there is one; return whether the counters are open."""
        if await self.check():
            self._since = None
            return True
        if self._since is None:
            self._since = self._clock()
            log.warning("the counters of money are gone: rebuilding them from the ledger")
        async with self._database.transaction() as alone:
            got = await (await alone.execute("select pg_try_advisory_xact_lock(%s) as ok", (LOCK,))).fetchone()
            return bool(got and got["ok"]) and await self._rebuild()

    async def check(self) -> bool:
        """Tell whether the counters are open. Those of another ledger, or of a later state of it, are deleted."""
        # Before the database is asked: changes that come in between make the number there larger, never smaller.
        epoch, version = await self._counters.epoch(), await self._counters.caps_version()
        row = await self._database.one(BOOK)
        self._book = row["name"] if row else ""
        if (epoch and not epoch.startswith(f"{self._book}.")) or version > await self._newest_change():
            log.warning("the counters of money were made from another ledger: they are dropped")
            await self._counters.forget()
            return False
        return bool(epoch)

    async def _rebuild(self) -> bool:
        await self._push_caps()
        # Before the snapshot: what settled before it is in the snapshot, and what settles after it is seen by `open`.
        changes, processes, held = await self._counters.survey()
        async with self._database.transaction(seconds=None) as connection:
            await connection.execute("set transaction isolation level repeatable read")
            return await self._from_ledger(connection, changes, processes, held)

    async def _from_ledger(self, connection: Connection, changes: str, processes: set[str], held: set[str]) -> bool:
        holders = {row["id"] for row in await _rows(connection, "select id from metering.holder")}
        assert self._since is not None
        if holders - processes and self._clock() - self._since < self._lease_seconds:
            return False
        now = datetime.fromtimestamp(self._counters.now_ms() / 1000, UTC)
        await self._counters.load(await counters_by_ledger(connection, now))
        query = "select id from metering.ledger where id = any(%s)"
        settled = [row["id"] for row in await _rows(connection, query, (list(held),))]
        posted = [row["id"] for row in await _rows(connection, "select id from metering.ledger where not posted")]
        if not await self._counters.open(f"{self._book}.{secrets.token_hex(8)}", changes, settled, posted):
            return False
        await connection.execute("update metering.ledger set posted = true where id = any(%s)", (posted,))
        gone = list(holders - processes)
        await connection.execute("delete from metering.holder where id = any(%s)", (gone,))
        log.warning("the counters of money are whole again", extra={"fields": {"held": len(held), "lost": len(gone)}})
        return True


async def _rows(connection: Connection, query: Any, args: Any = None) -> Sequence[dict[str, Any]]:
    return await (await connection.execute(query, args)).fetchall()
