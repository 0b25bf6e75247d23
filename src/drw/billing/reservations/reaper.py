"""Settles for processes that died, and posts ledger rows that the counters do not have yet."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from drw.billing.counters.client import Counters
from drw.billing.ledger.attempts import AttemptHistory
from drw.billing.ledger.ledger import Ledger
from drw.billing.ledger.rows import Row, settlement_rows, total

log = logging.getLogger(__name__)

ABANDONED, WRITTEN_AHEAD = "abandoned", "written_ahead"
PASS = "pass"
"""The route of calls that data planes report after the fact."""
GRACE_SECONDS = 1.0


async def reap(counters: Counters, ledger: Ledger, grace_seconds: float = GRACE_SECONDS) -> int:
    """Settle every reservation whose lease ended, at what its process wrote ahead; return how many.

    Where the process itself wrote its row before it died, that row counts. Done twice it is the same as once.
    """
    expired = await counters.expired(int(grace_seconds * 1000))
    for process, id, nano, tokens, attempts in expired:
        rows = settlement_rows(
            id,
            AttemptHistory.load(attempts),
            at_ms=counters.now_ms(),
            max_cost=nano,
            max_tokens=tokens,
            outcome=ABANDONED,
            counted_by=WRITTEN_AHEAD,
        )
        await ledger.put(rows)
        stored = await ledger.rows(row.id for row in rows)
        # All of them may have been counted by `post`: those that were written when the lease was in doubt.
        ids = [row.id for row in stored]
        result = await counters.settle("", id, stored[0].at.timestamp() * 1000, total(stored), ids)
        if result == "counted" and (unposted := [row.id for row in stored if not row.posted]):
            await ledger.mark_posted(unposted)
        elif result == "unknown":  # it went with a part of Valkey's data
            await ledger.unpost(ids)
        log.warning("settled for a process that died", extra={"fields": {"process": process, "reservation": id}})
    for process in await counters.idle_processes(int(grace_seconds * 1000)):
        await ledger.remove_holder(process)
        await counters.leave(process)
    return len(expired)


async def post(counters: Counters, ledger: Ledger) -> int:
    """Count the rows of the ledger that had no reservation; return how many there were."""
    read = counters.now_ms()
    rows = await ledger.unposted()
    await counters.post((row.posting() for row in rows), read)
    await counted(counters, ledger, rows)
    return len(rows)


async def counted(counters: Counters, ledger: Ledger, rows: Sequence[Row]) -> None:
    """Mark rows as posted in the ledger; the counters need not remember those without a reservation."""
    if rows:
        await ledger.mark_posted([row.id for row in rows])
        await counters.posted([row.id for row in rows if row.route == PASS])
