"""Writes of exposures and outcomes to PostgreSQL, added up by unit."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from drw.api.models.v1.experiments_pb2 import Metric
from drw.kernel.storage.database import Connection
from drw.models.experiments.design import BUCKETS
from drw.models.experiments.store import StoredExperiment


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a metric, by the metric's number and the hash of the unit."""

    metric: int
    unit: bytes
    value: float
    denominator: float = 1.0
    covariate: bool = False


@dataclass(slots=True)
class _Sums:
    """What one request adds to a metric of a unit."""

    events: int = 0
    positive: int = 0
    total: float = 0.0
    denominator: float = 0.0
    buckets: Counter[int] = field(default_factory=Counter)


async def add_exposures(connection: Connection, experiment: int, arms: Mapping[bytes, int]) -> int:
    """Record the arm of each unit that has none, by the hashes of the units; return how many were new."""
    # In one order, so that two requests with the same units do not wait for each other in a circle.
    rows = sorted(arms.items())
    cursor = await connection.execute(
        "insert into exposure (experiment, unit, arm) select %s, * from unnest(%s::bytea[], %s::smallint[])"
        " on conflict do nothing",
        (experiment, [unit for unit, _ in rows], [arm for _, arm in rows]),
    )
    return cursor.rowcount


async def add_ids(connection: Connection, experiment: int, ids: Iterable[str]) -> set[str]:
    """Record ids of outcomes; return those that are new."""
    hashes = {hashlib.sha256(id_.encode()).digest()[:16]: id_ for id_ in ids}
    cursor = await connection.execute(
        "insert into outcome_id (experiment, id) select %s, unnest(%s::bytea[]) on conflict do nothing returning id",
        (experiment, sorted(hashes)),
    )
    return {hashes[row["id"]] for row in await cursor.fetchall()}


async def add_values(connection: Connection, stored: StoredExperiment, values: Iterable[Value]) -> None:
    """Add values of metrics to the sums of their units."""
    sums: dict[tuple[int, bytes], _Sums] = {}
    before: dict[tuple[int, bytes], _Sums] = {}
    for value in values:
        added = (before if value.covariate else sums).setdefault((value.metric, value.unit), _Sums())
        added.events += 1
        added.positive += value.value > 0
        added.total += value.value
        added.denominator += value.denominator
        if stored.experiment.metrics[value.metric].kind == Metric.QUANTILE:
            added.buckets[BUCKETS.index(value.value)] += 1
    if sums:
        await _add(connection, stored.key, sums)
    if before:
        await _add_covariates(connection, stored.key, before)


async def _add_covariates(connection: Connection, experiment: int, sums: dict[tuple[int, bytes], _Sums]) -> None:
    rows = sorted(sums.items(), key=lambda row: row[0])
    await connection.execute(
        """
        insert into covariate (experiment, metric, unit, total, denominator)
        select %s, * from unnest(%s::smallint[], %s::bytea[], %s::float8[], %s::float8[])
        on conflict (experiment, metric, unit) do update set total = covariate.total + excluded.total,
            denominator = covariate.denominator + excluded.denominator
        """,
        (
            experiment,
            [metric for (metric, _), _ in rows],
            [unit for (_, unit), _ in rows],
            [added.total for _, added in rows],
            [added.denominator for _, added in rows],
        ),
    )


async def _add(connection: Connection, experiment: int, sums: dict[tuple[int, bytes], _Sums]) -> None:
    rows = sorted(sums.items(), key=lambda row: row[0])
    await connection.execute(
        """
        insert into outcome (experiment, metric, unit, events, positive, total, denominator)
        select %s, * from unnest(%s::smallint[], %s::bytea[], %s::bigint[], %s::bigint[], %s::float8[], %s::float8[])
        on conflict (experiment, metric, unit) do update set events = outcome.events + excluded.events,
            positive = outcome.positive + excluded.positive, total = outcome.total + excluded.total,
            denominator = outcome.denominator + excluded.denominator
        """,
        (
            experiment,
            [metric for (metric, _), _ in rows],
            [unit for (_, unit), _ in rows],
            [added.events for _, added in rows],
            [added.positive for _, added in rows],
            [added.total for _, added in rows],
            [added.denominator for _, added in rows],
        ),
    )

    if not (buckets := [(*key, *bucket) for key, added in rows for bucket in sorted(added.buckets.items())]):
        return
    await connection.execute(
        """
        insert into outcome_bucket (experiment, metric, unit, bucket, events)
        select %s, * from unnest(%s::smallint[], %s::bytea[], %s::smallint[], %s::bigint[])
        on conflict (experiment, metric, unit, bucket) do update set events = outcome_bucket.events + excluded.events
        """,
        (experiment, *(list(column) for column in zip(*buckets, strict=True))),
    )
