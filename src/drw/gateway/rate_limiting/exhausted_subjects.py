"""Exhausted subjects: keys, desks, orgs and models without tokens or money left, which data planes reject.

The counters decide, or the ledger while the counters are unavailable.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from drw.billing.counters.client import Counters, CountersUnavailable
from drw.billing.ledger import sums
from drw.billing.subjects import Subject, period_end
from drw.gateway.rate_limiting.budget_warnings import BudgetWarnings
from drw.gateway.rate_limiting.store import NOTIFY, PERIOD_LETTERS, LimitStore, subject_columns
from drw.kernel.storage.database import Connection

BATCH_SIZE = 500
MINUTE = timedelta(minutes=1)
PERIOD_NAMES = {"d": "day", "m": "month", "t": "total"}
LEDGER_CHECK_SECONDS = 10.0
"""Interval between checks of all subjects while spending is summed up from the ledger."""
Exhaustion = tuple[Subject, str, datetime | None]
"""The subject to block, the reason ("MONEY" or "TOKENS"), and the end of the block; None: no end."""


class ExhaustedSubjects:
    """Maintains the table of blocks."""

    def __init__(self, store: LimitStore, counters: Counters, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._counters = counters
        self._clock = clock
        self._next_check = 0.0
        """Earliest time of the next check of all subjects, by `clock`."""
        self._counters_unavailable = False
        self._warnings = BudgetWarnings()
        self._renewal_lock = asyncio.Lock()
        """Serialises renewals, since older caps must not overwrite the result of newer ones."""

    async def renew(self, subjects: Iterable[Subject] | None = None) -> None:
        """Block or unblock these subjects, by default all with caps, and notify watchers of changes."""
        async with self._renewal_lock:
            if subjects is not None or self._clock() >= self._next_check:
                await self._renew_in_batches(subjects)

    async def _renew_in_batches(self, requested: Iterable[Subject] | None) -> None:
        _, caps = await self._store.caps()
        capped: dict[Subject, dict[str, int]] = {}
        for subject, field, value in caps:
            if isinstance(value, int):
                capped.setdefault(subject, {})[field] = value
        subjects = list(capped) if requested is None else list(requested)
        for start in range(0, len(subjects), BATCH_SIZE):
            await self._renew_batch(subjects[start : start + BATCH_SIZE], capped)
        if requested is None:
            await self._delete_stale(capped)
            self._next_check = self._clock() + LEDGER_CHECK_SECONDS * self._counters_unavailable
            self._counters_unavailable = False

    async def _renew_batch(self, subjects: Sequence[Subject], capped: dict[Subject, dict[str, int]]) -> None:
        now = datetime.fromtimestamp(self._counters.now_ms() / 1000, UTC)
        with_caps = [subject for subject in subjects if subject in capped]
        spent = await self._spent(with_caps, now)
        blocks = [
            block for subject in with_caps for block in _exhaustions(subject, capped[subject], spent[subject], now)
        ]
        async with self._store.database.transaction() as connection:
            if await _replace_blocks(connection, subjects, blocks):
                await connection.execute(NOTIFY.encode())
            warnings = await self._warnings.publish(connection, capped, spent, now)
        self._warnings.remember(warnings)

    async def _spent(self, subjects: Sequence[Subject], now: datetime) -> dict[Subject, dict[str, int]]:
        """Return the spending of each subject by field, from the counters or else from the ledger."""
        try:
            return dict(zip(subjects, await self._counters.peek(subjects), strict=True))
        except CountersUnavailable:
            self._counters_unavailable = True
            async with self._store.database.transaction() as connection:
                return await sums.spending(connection, subjects, now)

    async def _delete_stale(self, capped: dict[Subject, dict[str, int]]) -> None:
        """Delete expired blocks, and blocks of subjects without caps."""
        now = datetime.fromtimestamp(self._counters.now_ms() / 1000, UTC)
        names = ["/".join(subject_columns(subject).values()) for subject in capped]
        query = "delete from block where until <= %s or not kind || '/' || org || '/' || name = any(%s) returning kind"
        async with self._store.database.transaction() as connection:
            if await (await connection.execute(query, (now, names))).fetchall():
                await connection.execute(NOTIFY.encode())
            await self._warnings.delete_stale(connection, capped)


def _exhaustions(subject: Subject, caps: dict[str, int], spent: dict[str, int], now: datetime) -> Iterable[Exhaustion]:
    exhausted = [
        period
        for period in PERIOD_LETTERS.values()
        for unit in "nt"
        if (cap := caps.get(f"C{period}{unit}")) is not None and spent[f"{period}{unit}"] >= cap
    ]
    if exhausted:
        period_ends = [period_end(PERIOD_NAMES[period], now) for period in exhausted]
        yield subject, "MONEY", None if None in period_ends else max(end for end in period_ends if end)
    if (cap := caps.get("Cw")) and spent["wt"] >= cap:
        until = datetime.fromtimestamp(spent["wr"] / 1000, UTC) if "wr" in spent else now + MINUTE
        yield subject, "TOKENS", until


async def _replace_blocks(connection: Connection, subjects: Sequence[Subject], desired: Sequence[Exhaustion]) -> bool:
    """Replace all blocks of the subjects; return whether anything changed."""
    names = ["/".join(subject_columns(subject).values()) for subject in subjects]
    query = "select * from block where kind || '/' || org || '/' || name = any(%s) for update"
    rows = await (await connection.execute(query, (names,))).fetchall()
    stored: dict[tuple[str, ...], Any] = {
        (row["kind"], row["org"], row["name"], row["reason"]): row["until"] for row in rows
    }
    desired_blocks: dict[tuple[str, ...], Any] = {
        (*subject_columns(s).values(), reason): until for s, reason, until in desired
    }
    for identity in stored.keys() - desired_blocks.keys():
        await connection.execute(
            "delete from block where kind = %s and org = %s and name = %s and reason = %s", identity
        )
    for identity, until in desired_blocks.items():
        if identity not in stored or stored[identity] != until:
            await connection.execute(
                "insert into block values (%s, %s, %s, %s, %s) "
                "on conflict (kind, org, name, reason) do update set until = excluded.until",
                (*identity, until),
            )
    return stored.keys() != desired_blocks.keys()
