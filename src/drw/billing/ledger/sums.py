"""Sums of the ledger by subject, for reports, limits, and the rebuild of the counters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from drw.api.gateway.v1.rate_limiting_pb2 import Block
from drw.billing.ledger.carryover import add_sums, carried_sums
from drw.billing.subjects import Subject, day_of, month_of, period_start
from drw.kernel.storage.database import Connection

MINUTE = timedelta(minutes=1)
BUCKET_SECONDS, RING = 5, 13
"""Ring buffer for the tokens of the last minute; see `counters/lua/prelude.lua`."""
KINDS = {"key": Block.KEY, "desk": Block.DESK, "org": Block.ORG, "model": Block.MODEL}
COLUMNS = {
    Block.KEY: ("org", "key"),
    Block.DESK: ("org", "desk"),
    Block.ORG: ("org", "''::text"),
    Block.MODEL: ("''::text", "model"),
}
PERIOD_FIELDS = ("tn", "tt", "mn", "mt", "dn", "dt")
"""Nano-dollars (n) and tokens (t) in total, of the month and of the day: field names of the counters."""
FIELDS = (*PERIOD_FIELDS, "wt")
"""With the tokens of the last minute."""

GROUPINGS = ("key", "desk", "model")
"""Columns that a report can group by."""
REPORT = """
select case %(by)s when 'key' then key when 'desk' then desk else model end as name, count(*) as calls,
       sum(prompt_tokens) as prompt, sum(completion_tokens) as completion, sum(cost) as nano,
       sum(sum(cost)) over () as all_nano
from metering.ledger where org = %(org)s and (desk = %(desk)s or %(desk)s::text is null) and at >= %(since)s
group by 1 order by nano desc, name limit %(max)s
"""
SUMS_OF_SUBJECTS = """
select {org} as org, {name} as name,
       sum(cost) as tn, sum(prompt_tokens + completion_tokens - excess_tokens) as tt,
       coalesce(sum(cost) filter (where at >= %(month)s), 0) as mn,
       coalesce(sum(prompt_tokens + completion_tokens - excess_tokens) filter (where at >= %(month)s), 0) as mt,
       coalesce(sum(cost) filter (where at >= %(day)s), 0) as dn,
       coalesce(sum(prompt_tokens + completion_tokens - excess_tokens) filter (where at >= %(day)s), 0) as dt,
       coalesce(sum(prompt_tokens + completion_tokens - excess_tokens) filter (where at > %(minute)s), 0) as wt
from metering.ledger where ({org}, {name}) in (select * from unnest(%(orgs)s::text[], %(names)s::text[])) group by 1, 2
"""
# `grouping` identifies the grouping set of a row: one bit for each column that is not in it.
SUMS_OF_ALL = """
select case grouping(org, key, desk, model) when 3 then 'key' when 5 then 'desk' when 7 then 'org' else 'model' end
           as kind,
       coalesce(org, '') as org, coalesce(key, desk, model, '') as name,
       sum(cost) as tn, sum(prompt_tokens + completion_tokens - excess_tokens) as tt,
       coalesce(sum(cost) filter (where at >= %(month)s), 0) as mn,
       coalesce(sum(prompt_tokens + completion_tokens - excess_tokens) filter (where at >= %(month)s), 0) as mt,
       coalesce(sum(cost) filter (where at >= %(day)s), 0) as dn,
       coalesce(sum(prompt_tokens + completion_tokens - excess_tokens) filter (where at >= %(day)s), 0) as dt
from metering.ledger group by grouping sets ((org, key), (org, desk), (org), (model))
"""
RECENT_TOKENS = """
select case grouping(org, key, desk, model) when 3 then 'key' when 5 then 'desk' when 7 then 'org' else 'model' end
           as kind,
       coalesce(org, '') as org, coalesce(key, desk, model, '') as name,
       floor(extract(epoch from at) / 5)::bigint as bucket,
       sum(prompt_tokens + completion_tokens - excess_tokens) as tokens
from metering.ledger where at > %(recent)s
group by grouping sets ((org, key, 4), (org, desk, 4), (org, 4), (model, 4))
"""


async def report(
    connection: Connection, *, by: str, org: str, desk: str | None, since: datetime, max_lines: int
) -> list[dict[str, Any]]:
    """Return the spending of an org, or of one desk, since a moment, largest first. `by` is one of `GROUPINGS`."""
    args = {"by": by, "org": org, "desk": desk, "since": since, "max": max_lines}
    return await (await connection.execute(REPORT, args)).fetchall()


async def spending(connection: Connection, subjects: Sequence[Subject], now: datetime) -> dict[Subject, dict[str, int]]:
    """Return the spending of subjects, including carried-over spending, with the field names of the counters."""
    sums = {subject: dict.fromkeys(FIELDS, 0) for subject in subjects}
    starts = {"day": period_start("day", now), "month": period_start("month", now), "minute": now - MINUTE}
    for kind, (org, name) in COLUMNS.items():
        of_kind = [subject for subject in subjects if subject.kind == kind]
        args = starts | {"orgs": [subject.org for subject in of_kind], "names": [subject.name for subject in of_kind]}
        cursor = await connection.execute(SUMS_OF_SUBJECTS.format(org=org, name=name).encode(), args)
        for row in await cursor.fetchall():
            sums[Subject(kind, row["org"], row["name"])] = {field: int(row[field]) for field in FIELDS}
    for (org, name), other in (await carried_sums(connection, now)).items():
        if (key := Subject(Block.KEY, org, name)) in sums:
            sums[key] = add_sums(sums[key], other)
    return sums


async def counters_by_ledger(connection: Connection, now: datetime) -> dict[str, dict[str, int]]:
    """Return the counters of every subject in the ledger, by their key in Valkey."""
    day, month = period_start("day", now), period_start("month", now)
    counters: dict[str, dict[str, int]] = {}
    cursor = await connection.execute(SUMS_OF_ALL, {"day": day, "month": month})
    for row in await cursor.fetchall():
        sums = {field: int(row[field]) for field in PERIOD_FIELDS}
        counters[_counter(row)] = {"d": day_of(now), "m": month_of(now), **sums}
    for (org, key), other in (await carried_sums(connection, now)).items():
        name = Subject(Block.KEY, org, key).counter
        counters[name] = add_sums(counters.get(name, {"d": day_of(now), "m": month_of(now)}), other)
    newest = int(now.timestamp()) // BUCKET_SECONDS
    oldest = datetime.fromtimestamp((newest - RING + 1) * BUCKET_SECONDS, UTC)
    cursor = await connection.execute(RECENT_TOKENS, {"recent": oldest})
    for row in await cursor.fetchall():
        ring = counters[_counter(row)]
        ring |= {"rk": newest, **{f"r{bucket}": ring.get(f"r{bucket}", 0) for bucket in range(RING)}}
        ring[f"r{min(row['bucket'], newest) % RING}"] += int(row["tokens"])
    return counters


def _counter(row: Mapping[str, Any]) -> str:
    return Subject(KINDS[row["kind"]], row["org"], row["name"]).counter
