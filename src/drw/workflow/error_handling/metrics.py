"""Metrics of dead letters."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from drw.kernel.storage.database import Database

STORED_LETTERS = Counter("drw_dead_letters", "Failed runs stored as dead letters, by class of failure.", ["class"])
OPEN_LETTERS = Gauge("drw_dead_letters_open", "Dead letters that are neither redriven nor discarded.")
ACTIVE_REDRIVES = Gauge("drw_redrives_active", "Redrives that have not ended.")

QUERY = """
select (select count(*) from dead_letter where closed_at is null) as letters,
       (select count(*) from redrive where state = 'ACTIVE') as redrives
"""


async def update_gauges(database: Database) -> None:
    """Update the gauges. They cover all processes."""
    row = await database.one(QUERY)
    assert row is not None
    OPEN_LETTERS.set(row["letters"])
    ACTIVE_REDRIVES.set(row["redrives"])
