"""How old the signing key is, for an alert: nothing else makes anybody rotate it."""

from __future__ import annotations

from prometheus_client import Gauge

from drw.kernel.database import Database

AGE = Gauge("drw_signing_key_age_seconds", "Age of the newest key that signs API keys.")
NEWEST = """
select coalesce(extract(epoch from clock_timestamp() - max(created_at)), 0)::float8 as seconds from signing_key
"""


async def measure(database: Database) -> None:
    """Bring the metrics up to date."""
    found = await database.one(NEWEST)
    assert found is not None
    AGE.set(max(0.0, found["seconds"]))
