"""Who has used up tokens or money, so that data planes refuse them: from the counters, else from the ledger."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from drw.billing.counters.client import Counters, CountersUnavailable
from drw.billing.ledger import sums
from drw.billing.subjects import Subject, ends
from drw.gateway.rate_limiting.store import NOTIFY, PERIODS, LimitStore, key
from drw.kernel.storage.database import Connection

AT_ONCE = 500
MINUTE = timedelta(minutes=1)
PERIOD_NAMES = {"d": "day", "m": "month", "t": "total"}
AWAY_SECONDS = 10.0
"""Interval between checks of all subjects while spending is summed up from the ledger."""
Wanted = tuple[Subject, str, datetime | None]
"""Whom to refuse, why, and until when."""


class ExhaustedSubjects:
    """Maintains the table of exhausted subjects from counters and caps."""

    def __init__(self, store: LimitStore, counters: Counters, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._counters = counters
        self._clock = clock
        self._again = 0.0
        """Time of the next check of all subjects."""
        self._away = False
        self._renewing = asyncio.Lock()
        """Serialises renewals: older caps must not overwrite the result of newer ones."""

    async def renew(self, only: Iterable[Subject] | None = None) -> None:
        """Block and unblock these subjects, or all that have caps, and tell the watchers of a change."""
        async with self._renewing:
            if only is not None or self._clock() >= self._again:
                await self._renew_all(only)

    async def _renew_all(self, only: Iterable[Subject] | None) -> None:
        _, caps = await self._store.caps()
        capped: dict[Subject, dict[str, int]] = {}
        for subject, field, value in caps:
            if isinstance(value, int):
                capped.setdefault(subject, {})[field] = value
        chosen = list(capped) if only is None else list(only)
        for start in range(0, len(chosen), AT_ONCE):
            await self._renew(chosen[start : start + AT_ONCE], capped)
        if only is None:
            await self._forget(capped)
            self._again = self._clock() + AWAY_SECONDS * self._away
            self._away = False

    async def _renew(self, subjects: Sequence[Subject], capped: dict[Subject, dict[str, int]]) -> None:
        now = datetime.fromtimestamp(self._counters.now_ms() / 1000, UTC)
        bound = [subject for subject in subjects if subject in capped]
        spent = await self._spent(bound, now)
        blocks = [block for subject in bound for block in _used_up(subject, capped[subject], spent[subject], now)]
        async with self._store.database.transaction() as connection:
            if await _replace(connection, subjects, blocks):
                await connection.execute(NOTIFY.encode())

    async def _spent(self, subjects: Sequence[Subject], now: datetime) -> dict[Subject, dict[str, int]]:
        try:
            return dict(zip(subjects, await self._counters.peek(subjects), strict=True))
        except CountersUnavailable:
            self._away = True
            async with self._store.database.transaction() as connection:
                return await sums.spent(connection, subjects, now)

    async def _forget(self, capped: dict[Subject, dict[str, int]]) -> None:
        """Drop the blocks of those that have no caps any more, and those that are over."""
        now = datetime.fromtimestamp(self._counters.now_ms() / 1000, UTC)
        names = [f"{k['kind']}/{k['org']}/{k['name']}" for k in map(key, capped)]
        query = "delete from block where until <= %s or not kind || '/' || org || '/' || name = any(%s) returning kind"
        async with self._store.database.transaction() as connection:
            if await (await connection.execute(query, (now, names))).fetchall():
                await connection.execute(NOTIFY.encode())


def _used_up(subject: Subject, caps: dict[str, int], spent: dict[str, int], now: datetime) -> Iterable[Wanted]:
    over = [
        letter
        for letter in PERIODS.values()
        for unit in "nt"
        if (cap := caps.get(f"C{letter}{unit}")) is not None and spent[f"{letter}{unit}"] >= cap
    ]
    if over:
        ending = [ends(PERIOD_NAMES[letter], now) for letter in over]
        yield subject, "MONEY", None if None in ending else max(end for end in ending if end)
    if (cap := caps.get("Cw")) and spent["wt"] >= cap:
        until = datetime.fromtimestamp(spent["wr"] / 1000, UTC) if "wr" in spent else now + MINUTE
        yield subject, "TOKENS", until


async def _replace(connection: Connection, subjects: Sequence[Subject], desired: Sequence[Wanted]) -> bool:
    """Replace all blocks of the subjects; return whether anything changed."""
    names = [f"{k['kind']}/{k['org']}/{k['name']}" for k in map(key, subjects)]
    query = "select * from block where kind || '/' || org || '/' || name = any(%s) for update"
    there = {_identity(row): row["until"] for row in await (await connection.execute(query, (names,))).fetchall()}
    want: dict[tuple[str, ...], Any] = {(*key(s).values(), reason): until for s, reason, until in desired}
    for identity in there.keys() - want.keys():
        await connection.execute(
            "delete from block where kind = %s and org = %s and name = %s and reason = %s", identity
        )
    for identity, until in want.items():
        if identity not in there or there[identity] != until:
            await connection.execute(
                "insert into block values (%s, %s, %s, %s, %s) "
                "on conflict (kind, org, name, reason) do update set until = excluded.until",
                (*identity, until),
            )
    return there.keys() != want.keys()


def _identity(row: dict[str, Any]) -> tuple[str, ...]:
    return row["kind"], row["org"], row["name"], row["reason"]
