"""Carry-over: spending that a rotated key passes on to its successor. It counts only for the key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from drw.billing.subjects import Subject, period_start
from drw.kernel.storage.database import Connection

MILLISECOND = timedelta(milliseconds=1)
SUMS = """
select org, key, sum(cost) as tn, sum(tokens) as tt,
       coalesce(sum(cost) filter (where at >= %(month)s), 0) as mn,
       coalesce(sum(tokens) filter (where at >= %(month)s), 0) as mt,
       coalesce(sum(cost) filter (where at >= %(day)s), 0) as dn,
       coalesce(sum(tokens) filter (where at >= %(day)s), 0) as dt
from metering.carried where %(key)s::text is null or (org = %(org)s and key = %(key)s) group by org, key
"""
INSERT = """
insert into metering.carried (org, key, at, cost, tokens) values (%s, %s, %s, %s, %s) on conflict do nothing
"""

Amount = tuple[datetime, int, int]
"""Time, nano-dollars and tokens."""


async def carried_sums(
    connection: Connection, now: datetime, key: Subject | None = None
) -> dict[tuple[str, str], dict[str, int]]:
    """Return the carried-over sums by org and key, with the field names of the counters; of all keys, or of one."""
    org, name = (key.org, key.name) if key else (None, None)
    args = {"org": org, "key": name, "day": period_start("day", now), "month": period_start("month", now)}
    rows = await (await connection.execute(SUMS, args)).fetchall()
    return {(row.pop("org"), row.pop("key")): {k: int(v) for k, v in row.items()} for row in rows}


async def add_amounts(connection: Connection, key: Subject, amounts: list[Amount]) -> None:
    """Add carried-over amounts to a key."""
    for at, cost, tokens in amounts:
        await connection.execute(INSERT, (key.org, key.name, at, cost, tokens))


def amounts_by_period(spent: Mapping[str, int], now: datetime) -> Iterator[Amount]:
    """Split spending into the amounts before this month, earlier this month, and today, oldest first."""
    day, month = period_start("day", now), period_start("month", now)
    for at, cost, tokens in (
        (month - MILLISECOND, spent["tn"] - spent["mn"], spent["tt"] - spent["mt"]),
        (month, spent["mn"] - spent["dn"], spent["mt"] - spent["dt"]),
        (day, spent["dn"], spent["dt"]),
    ):
        if cost or tokens:
            yield at, cost, tokens


def add_sums(spent: dict[str, Any], other: Mapping[str, int]) -> dict[str, Any]:
    """Add two sums, field by field."""
    return spent | {name: int(spent.get(name, 0)) + value for name, value in other.items()}
