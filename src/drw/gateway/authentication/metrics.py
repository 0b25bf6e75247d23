"""Metric of the signing key's age, for an alert on missing rotation."""

from __future__ import annotations

from prometheus_client import Gauge

from drw.kernel.storage.database import Database

SIGNING_KEY_AGE = Gauge("drw_signing_key_age_seconds", "Age of the key that signs API keys now.")
AGE_QUERY = """
select coalesce((
    select extract(epoch from clock_timestamp() - created_at) from signing_key
    where retired_at is null and signs_from <= now() order by signs_from desc, created_at desc, kid limit 1
), 0)::float8 as seconds
"""


async def measure(database: Database) -> None:
    """Update the metric."""
    row = await database.one(AGE_QUERY)
    assert row is not None
    SIGNING_KEY_AGE.set(max(0.0, row["seconds"]))
