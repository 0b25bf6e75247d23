"""Carry-over: what a key that replaces another one takes over of its spending. It counts for the key alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from drw.billing.subjects import Subject, begins
from drw.kernel.storage.database import Connection

MOMENT = timedelta(milliseconds=1)
CARRIED = """
select org, key, sum(cost) as tn, sum(tokens) as tt,
       coalesce(sum(cost) filter (where at >= %(month)s), 0) as mn,
       coalesce(sum(tokens) filter (where at >= %(month)s), 0) as mt,
       coalesce(sum(cost) filter (where at >= %(day)s), 0) as dn,
       coalesce(sum(tokens) filter (where at >= %(day)s), 0) as dt
from metering.carried where %(key)s::text is null or (org = %(org)s and key = %(key)s) group by org, key
"""
KEEP = """
insert into metering.carried (org, key, at, cost, tokens) values (%s, %s, %s, %s, %s) on conflict do nothing
"""

Part = tuple[datetime, int, int]
"""When, and how many nano-dollars and tokens."""


async def carried(
    connection: Connection, now: datetime, key: Subject | None = None
) -> dict[tuple[str, str], dict[str, int]]:
    """Return the sums by org and key, named as the counters name them; of all keys, or of one."""
    org, name = (key.org, key.name) if key else (None, None)
    args = {"org": org, "key": name, "day": begins("day", now), "month": begins("month", now)}
    rows = await (await connection.execute(CARRIED, args)).fetchall()
    return {(row.pop("org"), row.pop("key")): {k: int(v) for k, v in row.items()} for row in rows}


async def keep(connection: Connection, key: Subject, parts: list[Part]) -> None:
    """Add carried spending to a key."""
    for at, cost, tokens in parts:
        await connection.execute(KEEP, (key.org, key.name, at, cost, tokens))


def parts(spent: Mapping[str, int], now: datetime) -> Iterator[Part]:
    """Return the spending of today, of earlier this month, and from before, the oldest first."""
    day, month = begins("day", now), begins("month", now)
    for at, cost, tokens in (
        (month - MOMENT, spent["tn"] - spent["mn"], spent["tt"] - spent["mt"]),
        (month, spent["mn"] - spent["dn"], spent["mt"] - spent["dt"]),
        (day, spent["dn"], spent["dt"]),
    ):
        if cost or tokens:
            yield at, cost, tokens


def added(spent: dict[str, Any], more: Mapping[str, int]) -> dict[str, Any]:
    """Return two sums as one."""
    return spent | {name: int(spent.get(name, 0)) + value for name, value in more.items()}
