"""Recording of exposures and outcomes, per unit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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
from drw.models.experiments.design import assign
from drw.models.experiments.recording.unit_writes import Value, add_exposures, add_ids, add_values
from drw.models.experiments.store import StoredExperiment
from drw.routing.assignment import unit_hash

MAX_VALUE = 1e15
"""Larger values are rejected, so that sums of squares stay finite."""
IDS_BATCH = 10_000
"""Maximum number of ids that one transaction deletes."""
FORGET: tuple[LiteralString, ...] = (
    """
    delete from outcome_id where (experiment, id) in (
        select experiment, id from outcome_id where at < now() - make_interval(days => %s) limit %s)
    """,
    """
    delete from call_event where id in (
        select id from call_event where at < now() - make_interval(days => %s) limit %s)
    """,
)
COUNT_SECONDS = 30.0
"""Time for which the count of an experiment's units is good."""


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
            InvalidRequest: it has too many units, or the platform records its exposures.
        """
        _check_running(stored)
        if stored.experiment.alias:
            message = f"{stored.experiment.name!r} has an alias: the platform records the exposures of its calls"
            raise InvalidRequest(message, param="name")
        await self._check_count(stored)
        arms: dict[bytes, int] = {}
        outside = 0
        for unit in dict.fromkeys(units):
            if (arm := assign(stored.experiment, unit)) is None:
                outside += 1
            else:
                arms[unit_hash(stored.key, unit)] = arm
        async with self._database.transaction() as connection:
            added = await add_exposures(connection, stored.key, arms)
        return RecordExposuresResponse(added=added, not_in_experiment=outside)

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
            values = [_value(stored, outcome, metrics[outcome.metric]) for outcome in recorded]
            await add_values(connection, stored, values)
        return response

    async def forget_ids(self, days: int) -> None:
        """Delete ids of outcomes, and events of calls, that are older than so many days."""
        for query in FORGET:
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
        new_ids = await add_ids(connection, stored.key, (outcome.id for outcome in exposed_outcomes if outcome.id))
        recorded = []
        for outcome in exposed_outcomes:
            if outcome.id:
                if outcome.id not in new_ids:
                    continue
                new_ids.remove(outcome.id)
            recorded.append(outcome)
        response = RecordOutcomesResponse(
            recorded=len(recorded),
            duplicates=len(exposed_outcomes) - len(recorded),
            not_exposed=len(outcomes) - len(exposed_outcomes),
        )
        return response, recorded

    async def _check_count(self, stored: StoredExperiment) -> None:
        """Raise where an experiment has too many units."""
        if (count := await self._count(stored)) >= self._max_units:
            message = f"the experiment has {count} units, the maximum is {self._max_units}: stop it"
            raise InvalidRequest(message, param="units")

    async def is_full(self, stored: StoredExperiment) -> bool:
        """Return whether an experiment takes no more units."""
        return await self._count(stored) >= self._max_units

    async def _count(self, stored: StoredExperiment) -> int:
        """Return the number of units; it may be `COUNT_SECONDS` old."""
        at, count = self._counts.get(stored.key, (-math.inf, 0))
        if self._clock.time() - at > COUNT_SECONDS:
            row = await self._database.one("select count(*) as n from exposure where experiment = %s", stored.key)
            count = row["n"] if row else 0
            self._counts[stored.key] = self._clock.time(), count
        return count


def _value(stored: StoredExperiment, outcome: Outcome, metric: int) -> Value:
    denominator = outcome.denominator if outcome.HasField("denominator") else 1.0
    return Value(metric, unit_hash(stored.key, outcome.unit), outcome.value, denominator, outcome.covariate)


def _check_running(stored: StoredExperiment) -> None:
    if not stored.running:
        name = stored.experiment.name
        raise Conflict(f"the experiment {name!r} is not running, so nothing is recorded", param="name")


def _check_outcome(outcome: Outcome, metrics: Sequence[Metric], numbers: dict[str, int], path: str) -> None:
    if outcome.metric not in numbers:
        message = f"{path}.metric is {outcome.metric!r}; the experiment has: {', '.join(numbers) or 'no metrics'}"
        raise InvalidRequest(message, param=f"{path}.metric")
    metric = metrics[numbers[outcome.metric]]
    if metric.source != Metric.API:
        message = f"{path}.metric is {metric.name!r}, which the platform measures at each call"
        raise InvalidRequest(message, param=f"{path}.metric")
    if outcome.covariate and not metric.covariate:
        message = f"{path}.covariate needs a metric with `covariate`; {metric.name!r} has none"
        raise InvalidRequest(message, param=f"{path}.covariate")
    check_bounds(metric, outcome.value, f"{path}.value")
    if outcome.HasField("denominator"):
        if metric.kind != Metric.RATIO:
            message = f"{path}.denominator needs a metric of the kind RATIO; {outcome.metric!r} is none"
            raise InvalidRequest(message, param=f"{path}.denominator")
        if not 0 < outcome.denominator <= MAX_VALUE:
            message = f"{path}.denominator is {outcome.denominator:g}; it must be above 0 and at most {MAX_VALUE:g}"
            raise InvalidRequest(message, param=f"{path}.denominator")


def check_bounds(metric: Metric, value: float, param: str) -> None:
    """Raise `InvalidRequest` if a metric cannot have a value."""
    low, high = _bounds(metric)
    if not low <= value <= high:
        message = f"{param} is {value:g}; a value of {metric.name!r} can be {low:g} to {high:g}"
        raise InvalidRequest(message, param=param)


def _bounds(metric: Metric) -> tuple[float, float]:
    if metric.kind == Metric.SCORE:
        return metric.lowest, metric.highest
    return 0.0 if metric.kind == Metric.QUANTILE else -MAX_VALUE, MAX_VALUE
