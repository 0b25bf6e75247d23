"""Prometheus metrics of batches. Their label values are endpoints, never tenants or callers' input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from prometheus_client import Counter, Gauge

from drw.kernel.storage.database import Database
from drw.models.serving.batches.batch import ACTIVE

OPEN_REQUESTS = Gauge("drw_batch_requests_open", "Requests of batches, by state.", ["endpoint", "state"])
ENDED_REQUESTS = Counter(
    "drw_batch_requests", "Requests of batches that have ended: completed, failed or not_run.", ["endpoint", "outcome"]
)
OLDEST = Gauge("drw_batch_oldest_seconds", "Age of the oldest batch that has not ended.", ["endpoint"])
LATE = Gauge("drw_batches_late", "Batches that will miss their window at their present rate.", ["endpoint"])
TOKENS = Counter("drw_batch_tokens", "Tokens of completed requests of batches.", ["endpoint", "gen_ai_token_type"])

# The rest of a batch takes as long for each request as its start. Before its first result, it takes as long again as
# it has taken so far.
COUNT_QUERY = """
with running as (select batch, count(*) as number from batch_line where state = 'running' group by batch),
active as (
    select b.*, coalesce(r.number, 0) as running, b.completed + b.failed as ended,
        extract(epoch from clock_timestamp() - coalesce(b.in_progress_at, b.created_at)) as seconds
    from batch b left join running r on r.batch = b.number where b.state = any(%s))
select endpoint,
    coalesce(sum(total - ended - running) filter (where state = 'in_progress'), 0)::bigint as queued,
    sum(running)::bigint as running,
    extract(epoch from clock_timestamp() - min(created_at))::float8 as oldest,
    count(*) filter (where state in ('validating', 'in_progress') and expires_at < clock_timestamp()
        + interval '1 second' * seconds * case when ended > 0 then (total - ended)::float8 / ended else 1 end) as late
from active group by endpoint
"""


def count_ended(endpoint: str, outcome: Literal["completed", "failed", "not_run"], number: int = 1) -> None:
    """Count requests that have ended."""
    ENDED_REQUESTS.labels(endpoint, outcome).inc(number)


def count_tokens(endpoint: str, details: Mapping[str, Any]) -> None:
    """Count the tokens in the details of a call record."""
    TOKENS.labels(endpoint, "input").inc(details.get("prompt_tokens") or 0)
    TOKENS.labels(endpoint, "output").inc(details.get("completion_tokens") or 0)


async def update_gauges(database: Database, endpoints: Iterable[str]) -> None:
    """Update the gauges. They cover the batches of all processes, because batches are in the database."""
    rows = {row["endpoint"]: row for row in await database.all(COUNT_QUERY, list(ACTIVE))}
    for endpoint in endpoints:
        row = rows.get(endpoint, {})
        OPEN_REQUESTS.labels(endpoint, "queued").set(row.get("queued", 0))
        OPEN_REQUESTS.labels(endpoint, "running").set(row.get("running", 0))
        OLDEST.labels(endpoint).set(row.get("oldest", 0))
        LATE.labels(endpoint).set(row.get("late", 0))
