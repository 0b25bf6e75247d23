"""Sufficient statistics of an experiment's metrics, summed over units in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, LiteralString

from drw.api.models.v1.experiments_pb2 import Metric
from drw.kernel.storage.database import Connection
from drw.models.experiments.design import BUCKETS
from drw.models.experiments.statistics.analysis import ArmStatistics, Statistic
from drw.models.experiments.statistics.moments import Moments
from drw.models.experiments.statistics.proportions import Events
from drw.models.experiments.statistics.sketches import Sketch
from drw.models.experiments.store import StoredExperiment

Row = dict[str, Any]

# A unit without values counts as 0.
MEAN: LiteralString = """
select arm, count(*) as units, sum(x) as x, sum(x * x) as xx, min(x) as x_low, max(x) as x_high
from (select arm, least(coalesce(total, 0), %(cap)s) as x from unit_sums(%(experiment)s, %(metric)s)) unit group by arm
"""
RATIO: LiteralString = """
select arm, count(*) as units, sum(x) as x, sum(y) as y, sum(x * x) as xx, sum(x * y) as xy, sum(y * y) as yy,
    min(x) as x_low, max(x) as x_high, min(y) as y_low, max(y) as y_high
from (
    select arm, coalesce(total, 0) as x, coalesce(denominator, 0) as y from unit_sums(%(experiment)s, %(metric)s)
) unit group by arm
"""
# With values from before the exposure (CUPED): a unit without them has 0.
MEAN_BEFORE: LiteralString = """
select arm, count(*) as units, array[sum(x), sum(z)] as sums, array[sum(x * x), sum(x * z), sum(z * z)] as products,
    array[min(x), min(z)] as lows, array[max(x), max(z)] as highs
from (
    select arm, least(coalesce(total, 0), %(cap)s) as x, coalesce(total_before, 0) as z
    from unit_sums(%(experiment)s, %(metric)s)
) unit group by arm
"""
RATIO_BEFORE: LiteralString = """
select arm, count(*) as units, array[sum(x), sum(y), sum(u), sum(v)] as sums,
    array[sum(x * x), sum(x * y), sum(x * u), sum(x * v), sum(y * y), sum(y * u), sum(y * v), sum(u * u), sum(u * v),
        sum(v * v)] as products,
    array[min(x), min(y), min(u), min(v)] as lows, array[max(x), max(y), max(u), max(v)] as highs
from (
    select arm, coalesce(total, 0) as x, coalesce(denominator, 0) as y, coalesce(total_before, 0) as u,
        coalesce(denominator_before, 0) as v
    from unit_sums(%(experiment)s, %(metric)s)
) unit group by arm
"""
PROPORTION: LiteralString = """
select arm, count(*) as units, count(*) filter (where positive > 0) as events
from unit_sums(%(experiment)s, %(metric)s) group by arm
"""
# A mean of values within bounds can be outside of them by rounding.
SCORE: LiteralString = """
select arm, count(*) as units, sum(x) as x, sum(x * x) as xx, min(x) as x_low, max(x) as x_high
from (
    select arm, greatest(least(total / events, %(highest)s), %(lowest)s) as x
    from unit_sums(%(experiment)s, %(metric)s) where events > 0
) unit group by arm
"""
UNITS_WITH_VALUES: LiteralString = """
select arm, count(*) as units from unit_sums(%(experiment)s, %(metric)s) where events > 0 group by arm
"""
# Each unit divides a weight of 1 among the buckets of its values.
BUCKET_WEIGHTS: LiteralString = """
select s.arm, b.bucket, sum(b.events::float8 / s.events) as weight
from unit_sums(%(experiment)s, %(metric)s) s
    join outcome_bucket b on b.experiment = %(experiment)s and b.metric = %(metric)s and b.unit = s.unit
where s.events > 0 group by s.arm, b.bucket
"""


async def read(connection: Connection, stored: StoredExperiment) -> dict[str, ArmStatistics]:
    """Return the statistics of each arm by its name.

    The connection is in a transaction with one snapshot, so that the counts of all queries agree.
    """
    query: LiteralString = "select arm, count(*) as units from exposure where experiment = %s group by arm"
    cursor = await connection.execute(query, (stored.key,))
    units = {row["arm"]: row["units"] for row in await cursor.fetchall()}
    statistics: dict[int, dict[str, Statistic]] = {}
    for number, metric in enumerate(stored.experiment.metrics):
        parameters = {"experiment": stored.key, "metric": number}
        for arm, statistic in (await _metric(connection, metric, parameters)).items():
            statistics.setdefault(arm, {})[metric.name] = statistic
    return {
        arm.name: ArmStatistics(units.get(number, 0), statistics.get(number, {}))
        for number, arm in enumerate(stored.experiment.arms)
    }


async def _metric(connection: Connection, metric: Metric, parameters: Row) -> dict[int, Statistic]:
    match metric.kind:
        case Metric.MEAN:
            cap = metric.cap or float("inf")
            if metric.covariate:
                return await _rows(connection, MEAN_BEFORE, {**parameters, "cap": cap}, _arrays)
            return await _rows(connection, MEAN, {**parameters, "cap": cap}, _one_column)
        case Metric.RATIO:
            if metric.covariate:
                return await _rows(connection, RATIO_BEFORE, parameters, _arrays)
            return await _rows(connection, RATIO, parameters, _two_columns)
        case Metric.PROPORTION:
            return await _rows(connection, PROPORTION, parameters, lambda row: Events(row["units"], row["events"]))
        case Metric.SCORE:
            bounds = {"lowest": metric.lowest, "highest": metric.highest}
            return await _rows(connection, SCORE, {**parameters, **bounds}, _one_column)
        case _:
            return await _sketches(connection, parameters)


async def _rows(
    connection: Connection, query: LiteralString, parameters: Row, statistic: Callable[[Row], Statistic]
) -> dict[int, Statistic]:
    cursor = await connection.execute(query, parameters)
    return {row["arm"]: statistic(row) for row in await cursor.fetchall()}


async def _sketches(connection: Connection, parameters: Row) -> dict[int, Statistic]:
    weights: dict[int, list[float]] = {}
    for row in await (await connection.execute(BUCKET_WEIGHTS, parameters)).fetchall():
        weights.setdefault(row["arm"], [0.0] * len(BUCKETS))[row["bucket"]] = row["weight"]
    return await _rows(
        connection, UNITS_WITH_VALUES, parameters, lambda row: Sketch(row["units"], tuple(weights[row["arm"]]))
    )


def _one_column(row: Row) -> Moments:
    return Moments(row["units"], (row["x"],), (row["xx"],), (row["x_low"],), (row["x_high"],))


def _arrays(row: Row) -> Moments:
    return Moments(row["units"], *(tuple(row[name]) for name in ("sums", "products", "lows", "highs")))


def _two_columns(row: Row) -> Moments:
    products = (row["xx"], row["xy"], row["yy"])
    lows, highs = (row["x_low"], row["y_low"]), (row["x_high"], row["y_high"])
    return Moments(row["units"], (row["x"], row["y"]), products, lows, highs)
