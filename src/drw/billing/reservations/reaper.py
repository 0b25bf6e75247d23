"""Reaper: settles the reservations of dead processes, and posts ledger rows that the counters do not have yet."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from drw.billing.counters.client import Counters
from drw.billing.ledger.attempts import AttemptHistory
from drw.billing.ledger.ledger import Ledger
from drw.billing.ledger.rows import Row, settlement_rows, total_charges

log = logging.getLogger(__name__)

ABANDONED, WRITTEN_AHEAD = "abandoned", "written_ahead"
PASS_THROUGH = "pass"
"""Route of pass-through calls, which data planes report afterwards."""
GRACE_SECONDS = 1.0


async def reap(counters: Counters, ledger: Ledger, grace_seconds: float = GRACE_SECONDS) -> int:
    """Settle every reservation whose lease has ended, with the usage that its process wrote ahead; return how many.

    If the process wrote its row before it died, that row counts. Idempotent.
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
        # Rows written while the lease was uncertain may have been counted by `post`.
        ids = [row.id for row in stored]
        result = await counters.settle("", id, stored[0].at.timestamp() * 1000, total_charges(stored), ids)
        if result == "counted" and (unposted := [row.id for row in stored if not row.posted]):
            await ledger.mark_posted(unposted)
        elif result == "unknown":  # Valkey lost the reservation
            await ledger.unpost(ids)
        log.warning("settled a call of a dead process", extra={"fields": {"process": process, "reservation": id}})
    for process in await counters.idle_processes(int(grace_seconds * 1000)):
        await ledger.remove_holder(process)
        await counters.leave(process)
    return len(expired)


async def post(counters: Counters, ledger: Ledger) -> int:
    """Post ledger rows without a reservation to the counters; return how many."""
    read_ms = counters.now_ms()
    rows = await ledger.unposted()
    await counters.post((row.posting() for row in rows), read_ms)
    await mark_posted(counters, ledger, rows)
    return len(rows)


async def mark_posted(counters: Counters, ledger: Ledger, rows: Sequence[Row]) -> None:
    """Mark rows as posted in the ledger, and shorten the deduplication marks of pass-through rows in the counters."""
    if rows:
        await ledger.mark_posted([row.id for row in rows])
        await counters.posted([row.id for row in rows if row.route == PASS_THROUGH])
