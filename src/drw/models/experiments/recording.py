"""Recording of exposures and outcomes, per unit."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import LiteralString

from drw.api.models.v1.experiments_pb2 import (
    Metric,
    Outcome,
    RecordExposuresResponse,
    RecordOutcomesResponse,
)
from drw.kernel.errors import Conflict, InvalidRequest
from drw.kernel.runtime.clock import Clock
from drw.kernel.storage.database import Connection, Database
from drw.models.experiments.design import BUCKETS, assign
from drw.models.experiments.store import StoredExperiment

MAX_VALUE = 1e15
"""Larger values are rejected, so that sums of squares stay finite."""
IDS_BATCH = 10_000
"""Maximum number of ids that one transaction deletes."""
COUNT_SECONDS = 30.0
"""Time for which the count of an experiment's units is good."""


@dataclass(slots=True)
class _Sums:
    """What one request adds to a metric of a unit."""

    events: int = 0
    positive: int = 0
    total: float = 0.0
    denominator: float = 0.0
    buckets: Counter[int] = field(default_factory=Counter)


class Recorder:
    """Writes exposures and outcomes of running experiments."""

    def __init__(self, database: Database, clock: Clock, max_units: int) -> None:
        self._database = database
        self._clock = clock
        self._max_units = max_units
        self._counts: dict[int, tuple[float, int]] = {}

    async def exposures(self, stored: StoredExperiment, units: Iterable[str]) -> RecordExposuresResponse:
        """Record exposures of units.

        Raises:
            Conflict: the experiment is not running.
            InvalidRequest: it has too many units.
        """
        _check_running(stored)
        await self._check_count(stored)
        arms: dict[bytes, int] = {}
        outside = 0
        for unit in dict.fromkeys(units):
            if (arm := assign(stored.experiment, unit)) is None:
                outside += 1
            else:
                arms[unit_hash(stored.key, unit)] = arm
        # In one order, so that two requests with the same units do not wait for each other in a circle.
        rows = sorted(arms.items())
        added = await self._database.all(
            "insert into exposure (experiment, unit, arm) select %s, * from unnest(%s::bytea[], %s::smallint[])"
            " on conflict do nothing returning unit",
            *(stored.key, [unit for unit, _ in rows], [arm for _, arm in rows]),
        )
        return RecordExposuresResponse(added=len(added), not_in_experiment=outside)

    async def outcomes(self, stored: StoredExperiment, outcomes: Sequence[Outcome]) -> RecordOutcomesResponse:
        """Record outcomes of exposed units, all of a request or none.

        Raises:
            Conflict: the experiment is not running.
            InvalidRequest: an outcome names an unknown metric or has an invalid value.
        """
        _check_running(stored)
        metrics = {metric.name: number for number, metric in enumerate(stored.experiment.metrics)}
        for number, outcome in enumerate(outcomes):
            _check_outcome(outcome, stored.experiment.metrics, metrics, f"outcomes[{number}]")
        async with self._database.transaction() as connection:
            response, recorded = await self._new(connection, stored, outcomes)
            sums: dict[tuple[int, bytes], _Sums] = {}
            for outcome in recorded:
                number = metrics[outcome.metric]
                added = sums.setdefault((number, unit_hash(stored.key, outcome.unit)), _Sums())
                added.events += 1
                added.positive += outcome.value > 0
                added.total += outcome.value
                added.denominator += outcome.denominator if outcome.HasField("denominator") else 1.0
                if stored.experiment.metrics[number].kind == Metric.QUANTILE:
                    added.buckets[BUCKETS.index(outcome.value)] += 1
            await _add(connection, stored.key, sums)
        return response

    async def forget_ids(self, days: int) -> None:
        """Delete ids of outcomes that are older than so many days."""
        query: LiteralString = """
            delete from outcome_id where (experiment, id) in (
                select experiment, id from outcome_id where at < now() - make_interval(days => %s) limit %s)
            """
        deleted = IDS_BATCH
        while deleted == IDS_BATCH:
            async with self._database.transaction() as connection:
                deleted = (await connection.execute(query, (days, IDS_BATCH))).rowcount

    async def _new(
        self, connection: Connection, stored: StoredExperiment, outcomes: Sequence[Outcome]
    ) -> tuple[RecordOutcomesResponse, list[Outcome]]:
        """Return the outcomes of exposed units whose ids are new, and the counts of all."""
        hashes = sorted({unit_hash(stored.key, outcome.unit) for outcome in outcomes})
        cursor = await connection.execute(
            "select unit from exposure where experiment = %s and unit = any(%s)", (stored.key, hashes)
        )
        exposed = {row["unit"] for row in await cursor.fetchall()}
        exposed_outcomes = [outcome for outcome in outcomes if unit_hash(stored.key, outcome.unit) in exposed]
        ids = sorted({_id_hash(outcome) for outcome in exposed_outcomes if outcome.id})
        cursor = await connection.execute(
            "insert into outcome_id (experiment, id) select %s, unnest(%s::bytea[])"
            " on conflict do nothing returning id",
            (stored.key, ids),
        )
        new_ids = {row["id"] for row in await cursor.fetchall()}
        recorded = []
        for outcome in exposed_outcomes:
            if outcome.id:
                if _id_hash(outcome) not in new_ids:
                    continue
                new_ids.remove(_id_hash(outcome))
            recorded.append(outcome)
        response = RecordOutcomesResponse(
            recorded=len(recorded),
            duplicates=len(exposed_outcomes) - len(recorded),
            not_exposed=len(outcomes) - len(exposed_outcomes),
        )
        return response, recorded

    async def _check_count(self, stored: StoredExperiment) -> None:
        """Raise where an experiment has too many units; the count may be `COUNT_SECONDS` old."""
        at, count = self._counts.get(stored.key, (-math.inf, 0))
        if self._clock.time() - at > COUNT_SECONDS:
            row = await self._database.one("select count(*) as n from exposure where experiment = %s", stored.key)
            count = row["n"] if row else 0
            self._counts[stored.key] = self._clock.time(), count
        if count >= self._max_units:
            message = f"the experiment has {count} units, the maximum is {self._max_units}: stop it"
            raise InvalidRequest(message, param="units")


def unit_hash(experiment: int, unit: str) -> bytes:
    """Return what stands for a unit in the database: 16 bytes of a SHA-256 that is different in each experiment."""
    return hashlib.sha256(f"{experiment}/{unit}".encode()).digest()[:16]


def _id_hash(outcome: Outcome) -> bytes:
    return hashlib.sha256(outcome.id.encode()).digest()[:16]


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


def _check_running(stored: StoredExperiment) -> None:
    if not stored.running:
        name = stored.experiment.name
        raise Conflict(f"the experiment {name!r} is not running, so nothing is recorded", param="name")


def _check_outcome(outcome: Outcome, metrics: Sequence[Metric], numbers: dict[str, int], path: str) -> None:
    if outcome.metric not in numbers:
        message = f"{path}.metric is {outcome.metric!r}; the experiment has: {', '.join(numbers) or 'no metrics'}"
        raise InvalidRequest(message, param=f"{path}.metric")
    metric = metrics[numbers[outcome.metric]]
    low, high = _bounds(metric)
    if not low <= outcome.value <= high:
        message = f"{path}.value is {outcome.value:g}; a value of {metric.name!r} can be {low:g} to {high:g}"
        raise InvalidRequest(message, param=f"{path}.value")
    if outcome.HasField("denominator"):
        if metric.kind != Metric.RATIO:
            message = f"{path}.denominator needs a metric of the kind RATIO; {outcome.metric!r} is none"
            raise InvalidRequest(message, param=f"{path}.denominator")
        if not 0 < outcome.denominator <= MAX_VALUE:
            message = f"{path}.denominator is {outcome.denominator:g}; it must be above 0 and at most {MAX_VALUE:g}"
            raise InvalidRequest(message, param=f"{path}.denominator")


def _bounds(metric: Metric) -> tuple[float, float]:
    if metric.kind == Metric.SCORE:
        return metric.lowest, metric.highest
    return 0.0 if metric.kind == Metric.QUANTILE else -MAX_VALUE, MAX_VALUE
