"""Metrics of runs."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from drw.kernel.storage.database import Database

OPEN = Gauge("drw_runs_open", "Runs that have not ended, by state.", ["state"])
ENDED = Counter("drw_runs_ended", "Runs that have ended, by how.", ["outcome"])
STEPS = Counter("drw_steps", "Attempts at steps, by what they do and how they ended.", ["activity", "outcome"])
WAITING = Gauge("drw_runs_oldest_queued_seconds", "For how long the oldest run has waited to be begun.")
BEHIND = Gauge("drw_runs_events_waiting", "Events that the live view of runs does not show yet.")
STATES = ("QUEUED", "RUNNING")

COUNTS = """
select count(*) filter (where state = 'QUEUED') as "QUEUED",
       count(*) filter (where state = 'RUNNING') as "RUNNING",
       coalesce(extract(epoch from clock_timestamp() - min(created_at) filter (where state = 'QUEUED')), 0)::float8
           as oldest,
       (select count(*) from outbox) as behind
from run where state in ('QUEUED', 'RUNNING')
"""


async def measure(database: Database) -> None:
    """Update the gauges. They cover all processes, because runs are in the database."""
    counts = await database.one(COUNTS)
    assert counts is not None
    for state in STATES:
        OPEN.labels(state.lower()).set(counts[state])
    WAITING.set(max(0.0, counts["oldest"]))
    BEHIND.set(counts["behind"])
