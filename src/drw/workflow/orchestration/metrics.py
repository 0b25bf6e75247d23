"""Metrics of runs."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from drw.kernel.storage.database import Database

OPEN_RUNS = Gauge("drw_runs_open", "Runs that have not ended, by state.", ["state"])
ENDED_RUNS = Counter("drw_runs_ended", "Runs that have ended, by outcome.", ["outcome"])
DELETED_RUNS = Counter("drw_runs_deleted", "Runs that were deleted at the end of their retention.")
STEP_ATTEMPTS = Counter("drw_steps", "Step attempts, by activity and outcome.", ["activity", "outcome"])
OLDEST_QUEUED = Gauge("drw_runs_oldest_queued_seconds", "Age of the oldest queued run.")
PENDING_EVENTS = Gauge("drw_runs_events_waiting", "Events not yet published to the live view of runs.")
TICKS = Counter("drw_schedule_ticks", "Occurrences of schedules that were handled, by outcome.", ["outcome"])
FIRINGS = Counter("drw_trigger_firings", "Events that matched a trigger and were handled, by outcome.", ["outcome"])
SCHEDULES = Gauge("drw_schedules", "Schedules, by state.", ["state"])
SCHEDULE_DELAY = Gauge("drw_schedules_delay_seconds", "How long the most overdue occurrence of a schedule has waited.")
CALENDAR_DAYS = Gauge(
    "drw_schedules_calendar_days_left", "Days to the end of a calendar that schedules use.", ["calendar"]
)
SCHEDULE_STATES = ("ACTIVE", "PAUSED", "STOPPED")
OPEN_STATES = ("QUEUED", "RUNNING")

COUNT_QUERY = """
select count(*) filter (where state = 'QUEUED') as "QUEUED",
       count(*) filter (where state = 'RUNNING') as "RUNNING",
       coalesce(extract(epoch from clock_timestamp()
           - min(created_at) filter (where state = 'QUEUED' and paused_at is null)), 0)::float8 as oldest_queued,
       (select count(*) from outbox) as pending_events
from run where state in ('QUEUED', 'RUNNING')
"""
SCHEDULE_QUERY = """
select count(*) filter (where state = 'ACTIVE') as "ACTIVE",
       count(*) filter (where state = 'PAUSED') as "PAUSED",
       count(*) filter (where state = 'STOPPED') as "STOPPED",
       coalesce(extract(epoch from clock_timestamp() - min(next_at) filter (where state = 'ACTIVE')), 0)::float8
           as delay
from schedule
"""


async def update_gauges(database: Database) -> None:
    """Update the gauges. They cover all processes, because runs are in the database."""
    counts = await database.one(COUNT_QUERY)
    assert counts is not None
    for state in OPEN_STATES:
        OPEN_RUNS.labels(state.lower()).set(counts[state])
    OLDEST_QUEUED.set(max(0.0, counts["oldest_queued"]))
    PENDING_EVENTS.set(counts["pending_events"])
    schedules = await database.one(SCHEDULE_QUERY)
    assert schedules is not None
    for state in SCHEDULE_STATES:
        SCHEDULES.labels(state.lower()).set(schedules[state])
    SCHEDULE_DELAY.set(max(0.0, schedules["delay"]))
