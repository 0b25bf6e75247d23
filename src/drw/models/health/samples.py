"""Requests by minute and hour in PostgreSQL, from the counts that processes report since their start."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from drw.api.kernel.v1.kernel_pb2 import ProcessStatus, RequestCounts
from drw.catalog import BY_NAME
from drw.kernel.storage.database import Database
from drw.models.health.burn_rates import ALL_WINDOWS, Counts
from drw.models.health.settings import HistorySettings

LOCK = "select pg_advisory_xact_lock(hashtextextended('health/samples', 0))"
MINUTE_WINDOW = 360
"""Longest window in minutes that is summed by minute; longer ones by hour."""
POSITION_DAYS = 2
RECORD = """
with reported as (
    select * from unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[])
        as r (process, instance, service, good, slow, failed)
), increase as (
    select r.service, sum(greatest(r.good - coalesce(p.good, 0), 0)) as good,
        sum(greatest(r.slow - coalesce(p.slow, 0), 0)) as slow,
        sum(greatest(r.failed - coalesce(p.failed, 0), 0)) as failed
    from reported r left join position p using (process, instance, service)
    group by r.service
), stored as (
    insert into position (process, instance, service, good, slow, failed) select * from reported
    on conflict (process, instance, service) do update
        set good = excluded.good, slow = excluded.slow, failed = excluded.failed, seen_at = now()
), minutes as (
    insert into sample_minute
        select service, date_trunc('minute', now()), good, slow, failed from increase where good + slow + failed > 0
    on conflict (service, at) do update set good = sample_minute.good + excluded.good,
        slow = sample_minute.slow + excluded.slow, failed = sample_minute.failed + excluded.failed
)
insert into sample_hour
    select service, date_trunc('hour', now()), good, slow, failed from increase where good + slow + failed > 0
on conflict (service, at) do update set good = sample_hour.good + excluded.good,
    slow = sample_hour.slow + excluded.slow, failed = sample_hour.failed + excluded.failed
"""
SUMS = """
select s.service, w.minutes, sum(s.good)::bigint as good, sum(s.slow)::bigint as slow, sum(s.failed)::bigint as failed
from unnest(%s::int[]) as w (minutes) join sample_minute s on s.at > now() - make_interval(mins => w.minutes)
group by s.service, w.minutes
union all
select s.service, w.minutes, sum(s.good)::bigint, sum(s.slow)::bigint, sum(s.failed)::bigint
from unnest(%s::int[]) as w (minutes) join sample_hour s on s.at > now() - make_interval(mins => w.minutes)
group by s.service, w.minutes
"""
PURGE = (
    "delete from sample_minute where at < now() - make_interval(days => %s)",
    "delete from sample_hour where at < now() - make_interval(days => %s)",
    "delete from position where seen_at < now() - make_interval(days => %s)",
)


class _Reported(NamedTuple):
    """Counts of one service that one run of a process reports."""

    process: str
    instance: str
    service: str
    good: int
    slow: int
    failed: int


class SampleStore:
    """Adds reports to samples, each request once, and sums samples over windows."""

    def __init__(self, database: Database, settings: HistorySettings) -> None:
        self._database = database
        self._settings = settings

    async def record(self, statuses: Iterable[ProcessStatus]) -> None:
        """Add what the counts have increased by since the last report of each run of a process.

        Requests while this service did not run count in the minute of its next report.
        """
        rows = [row for status in statuses for row in _reported(status)]
        if not rows:
            return
        columns = [[*column] for column in zip(*rows, strict=True)]
        async with self._database.transaction() as connection:
            await connection.execute(LOCK)  # one health service at a time: each reads the positions of the other
            await connection.execute(RECORD, columns)

    async def windows(self) -> dict[str, dict[int, Counts]]:
        """Return the requests of each service in each window, by its minutes."""
        short = [minutes for minutes in ALL_WINDOWS if minutes <= MINUTE_WINDOW]
        long = [minutes for minutes in ALL_WINDOWS if minutes > MINUTE_WINDOW]
        sums: dict[str, dict[int, Counts]] = defaultdict(dict)
        for row in await self._database.all(SUMS, short, long):
            sums[row["service"]][row["minutes"]] = Counts(row["good"], row["slow"], row["failed"])
        return sums

    async def purge(self) -> None:
        """Delete expired samples."""
        days = (self._settings.minute_days, self._settings.hour_days, POSITION_DAYS)
        async with self._database.transaction() as connection:
            for query, keep in zip(PURGE, days, strict=True):
                await connection.execute(query, (keep,))


def _reported(status: ProcessStatus) -> list[_Reported]:
    services = {*status.requests, *status.unanswered} & BY_NAME.keys()
    rows = []
    for name in sorted(services):
        counts = status.requests.get(name, RequestCounts())
        failed = counts.failed + status.unanswered.get(name, 0)
        rows.append(_Reported(status.name, status.instance, name, counts.good, counts.slow, failed))
    return rows
