"""The queue of runs: which ones start next.

Desks take turns: the one with the fewest active runs is next, and of several the one that waited longest. Within a
desk, each level of priority counts as much as five minutes of waiting, so that every run starts eventually. Child runs
start at once, since their parents wait for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PRIORITY_SECONDS = 300
"""A run of one priority starts before another one that has waited up to this much longer at the priority below."""

QUEUE_LOCK = 0x7275_6E71_7565_7565
"""The advisory lock "runqueue": one process at a time chooses runs."""

START_NEXT = """
with active as (
    select org, desk, count(*) as runs from run
    where (state = 'RUNNING' or (state = 'QUEUED' and dispatched_at is not null)) and parent is null
      and paused_at is null
    group by org, desk
), waiting as (
    select run.id, run.parent, run.created_at, run.org, run.desk, coalesce(active.runs, 0) + row_number() over (
        partition by run.org, run.desk, run.parent is null
        order by run.created_at - run.priority * %(seconds)s * interval '1 second', run.created_at, run.id) as turn
    from run left join active on active.org = run.org and active.desk = run.desk
    where run.state = 'QUEUED' and run.dispatched_at is null and not run_is_paused(run.id)
), chosen as (
    select id from waiting where parent is not null
    union all
    (select id from waiting join lateral (
        select max(dispatched_at) as at from run where run.org = waiting.org and run.desk = waiting.desk
     ) as latest on true
     where parent is null and turn <= %(per_desk)s order by turn, latest.at nulls first, created_at, id
     limit greatest(0, %(total)s - (select coalesce(sum(runs), 0) from active)))
)
update run set dispatched_at = clock_timestamp() where id in (select id from chosen) and state = 'QUEUED'
"""
CLAIM = """
with claimed as (
    update run set executor = %(executor)s where id in (
        select id from run where state = 'QUEUED' and dispatched_at is not null and executor = ''
        order by dispatched_at, created_at limit %(limit)s for update skip locked
    ) returning id, dispatched_at, created_at
)
select id from claimed order by dispatched_at, created_at
"""
"""Takes runs that the queue lets start for one executor."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Maximum active runs of all desks, and of each desk, without child runs and paused runs."""

    total: int = 1000
    per_desk: int = 50

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of `START_NEXT`."""
        return {"total": self.total, "per_desk": self.per_desk, "seconds": PRIORITY_SECONDS}
