"""Results of an experiment: comparison of all arms, by statistics that are valid at any time of looking."""

from __future__ import annotations

import math
from collections.abc import Mapping

from drw.api.models.v1 import experiments_pb2
from drw.api.models.v1.experiments_pb2 import ArmUnits, Delivery, Metric, Results, SampleRatioCheck
from drw.kernel.storage.database import Connection, Database
from drw.models.experiments import sufficient_statistics
from drw.models.experiments.design import BUCKETS, design_of
from drw.models.experiments.statistics.analysis import ArmStatistics, Comparison, Decision, analyse
from drw.models.experiments.statistics.moments import Moments
from drw.models.experiments.statistics.proportions import Events
from drw.models.experiments.statistics.sequences import Interval
from drw.models.experiments.statistics.sketches import Sketch
from drw.models.experiments.store import StoredExperiment

VERDICTS = {
    Decision.BETTER: experiments_pb2.Comparison.BETTER,
    Decision.WORSE: experiments_pb2.Comparison.WORSE,
    Decision.UNDECIDED: experiments_pb2.Comparison.UNDECIDED,
    Decision.NO_RESULT: experiments_pb2.Comparison.NO_RESULT_YET,
}


async def results(database: Database, stored: StoredExperiment) -> Results:
    """Return the results of an experiment as it stands."""
    async with database.transaction() as connection:
        await connection.execute("set transaction isolation level repeatable read, read only")
        arms = await sufficient_statistics.read(connection, stored)
        delivery = await _delivery(connection, stored)
    experiment = stored.experiment
    analysis = analyse(design_of(experiment), arms)
    metrics = {metric.name: metric for metric in experiment.metrics}
    check = SampleRatioCheck(mismatch=analysis.sample_ratio.mismatch, p_value=analysis.sample_ratio.p_value)
    return Results(
        name=experiment.name,
        state=experiment.state,
        arms=[ArmUnits(arm=arm.name, units=arms[arm.name].units) for arm in experiment.arms],
        sample_ratio=check,
        comparisons=[_comparison(each, metrics[each.metric], arms) for each in analysis.comparisons],
        delivery=delivery,
    )


async def _delivery(connection: Connection, stored: StoredExperiment) -> Delivery | None:
    """Return what became of the exposures of an experiment of an alias."""
    if not stored.experiment.alias:
        return None
    cursor = await connection.execute("select * from delivery where experiment = %s", (stored.key,))
    row = await cursor.fetchone() or {"recorded": 0, "lost": 0, "not_assigned": 0}
    return Delivery(recorded=row["recorded"], lost=row["lost"], not_assigned=row["not_assigned"])


def _comparison(
    comparison: Comparison, metric: Metric, arms: Mapping[str, ArmStatistics]
) -> experiments_pb2.Comparison:
    return experiments_pb2.Comparison(
        arm=comparison.arm,
        metric=comparison.metric,
        verdict=VERDICTS[comparison.decision],
        reason=comparison.reason,
        value=_value(metric, arms[comparison.arm]),
        control_value=_value(metric, arms[comparison.control]),
        difference=_interval(comparison.difference),
        lift=_interval(comparison.lift),
        p_value=comparison.p_value,
        guardrail_breached=_breached(metric, comparison.lift),
    )


def _breached(metric: Metric, lift: Interval | None) -> bool:
    """Return whether the whole interval is worse than the largest accepted harm."""
    if not metric.max_harm or lift is None:
        return False
    if metric.direction == Metric.LOWER_IS_BETTER:
        return lift.lower > metric.max_harm
    return lift.upper < -metric.max_harm


def _interval(interval: Interval | None) -> experiments_pb2.Interval | None:
    if interval is None or not math.isfinite(interval.estimate):
        return None
    return experiments_pb2.Interval(
        estimate=interval.estimate, lower=_finite(interval.lower), upper=_finite(interval.upper)
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _value(metric: Metric, arm: ArmStatistics) -> float | None:
    """Return the metric of an arm."""
    match arm.metrics.get(metric.name):
        case Moments(units=units) as moments if units:
            if metric.kind != Metric.RATIO:
                return moments.mean(0)
            return moments.sums[0] / moments.sums[1] if moments.sums[1] else None
        case Events(units=units, events=events) if units:
            return events / units
        case Sketch(units=units) as sketch if units:
            return sketch.quantile(BUCKETS, metric.quantile)
        case _:
            return None
