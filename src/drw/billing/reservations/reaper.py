"""Settles in place of processes that died, and tells the counters what they do not know of yet."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from drw.billing.counters.client import Counters
from drw.billing.ledger.attempts import AttemptHistory
from drw.billing.ledger.ledger import Ledger
from drw.billing.ledger.rows import Row, settled, total

log = logging.getLogger(__name__)

ABANDONED, WRITTEN_AHEAD = "abandoned", "written_ahead"
PASS = "pass"
"""The route of what data planes let through by themselves."""
GRACE_SECONDS = 1.0


async def reap(counters: Counters, ledger: Ledger, grace_seconds: float = GRACE_SECONDS) -> int:
    """Settle every reservation whose process gives no sign of life, at what it wrote ahead; return how many.

    Where the process itself wrote its row before it died, that row counts. Done twice it is the same as once.
    """
    found = await counters.expired(int(grace_seconds * 1000))
    for process, id, nano, tokens, attempts in found:
        course, now = AttemptHistory.load(attempts), counters.now_ms()
        rows = settled(
            id, course, at_ms=now, most=nano, most_tokens=tokens, outcome=ABANDONED, counted_by=WRITTEN_AHEAD
        )
        await ledger.put(rows)
        kept = await ledger.rows(row.id for row in rows)
        # All of them may have been counted by `post`: those that were written when the lease was in doubt.
        said = await counters.settle("", id, kept[0].at.timestamp() * 1000, total(kept), [row.id for row in kept])
        if said == "counted" and (late := [row.id for row in kept if not row.posted]):
            await ledger.mark_posted(late)
        elif said == "unknown":  # it went with a part of Valkey's data
            await ledger.unpost([row.id for row in kept])
        log.warning("settled for a process that died", extra={"fields": {"process": process, "reservation": id}})
    for process in await counters.left(int(grace_seconds * 1000)):
        await ledger.let_go(process)
        await counters.leave(process)
    return len(found)


async def post(counters: Counters, ledger: Ledger) -> int:
    """Count the rows of the ledger that had no reservation; return how many there were."""
    read = counters.now_ms()
    rows = await ledger.unposted()
    await counters.post((row.posting() for row in rows), read)
    await counted(counters, ledger, rows)
    return len(rows)


async def counted(counters: Counters, ledger: Ledger, rows: Sequence[Row]) -> None:
    """Say in the ledger that rows are counted; what has no reservation need not be known in the counters any more."""
    if rows:
        await ledger.mark_posted([row.id for row in rows])
        await counters.posted([row.id for row in rows if row.route == PASS])
