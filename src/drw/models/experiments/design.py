"""The statistical design of an experiment and its assignment of units, from its definition."""

from __future__ import annotations

from drw.api.models.v1.experiments_pb2 import Experiment
from drw.api.models.v1.experiments_pb2 import Metric as MetricDefinition
from drw.kernel.errors import InvalidRequest
from drw.models.experiments.statistics.design import (
    Arm,
    Design,
    Goal,
    MeanMetric,
    Metric,
    ProportionMetric,
    QuantileMetric,
    RatioMetric,
    ScoreMetric,
    Unit,
)
from drw.models.experiments.statistics.errors import InvalidDesign
from drw.models.experiments.statistics.scores import Bounds
from drw.models.experiments.statistics.sketches import Buckets
from drw.routing.assignment import Allocation

BUCKETS = Buckets(low=1e-6, high=1e9, accuracy=0.01)
"""Of all quantile metrics: from a microsecond to 30 years if the unit is seconds, within 1 %."""


def design_of(experiment: Experiment) -> Design:
    """Return the design of a definition.

    Raises:
        InvalidRequest: it has no valid analysis, for example an asymptotic comparison of arms of 5:95.
    """
    unit = Unit(experiment.unit)
    try:
        return Design(
            arms=tuple(Arm(arm.name, arm.weight) for arm in experiment.arms),
            metrics=tuple(_metric(metric, unit) for metric in experiment.metrics),
            unit=unit,
            alpha=experiment.alpha,
        )
    except InvalidDesign as error:
        raise InvalidRequest(str(error), param="metrics") from error


def assign(experiment: Experiment, unit: str) -> int | None:
    """Return the number of a unit's arm; None if the unit is not in the experiment."""
    weights = [arm.weight for arm in experiment.arms]
    return Allocation.of_weights(experiment.seed, weights, experiment.traffic_percent).arm(unit)


def _metric(metric: MetricDefinition, unit: Unit) -> Metric:
    goal = Goal.INCREASE if metric.direction == MetricDefinition.HIGHER_IS_BETTER else Goal.DECREASE
    match metric.kind:
        case MetricDefinition.MEAN:
            return MeanMetric(
                name=metric.name, goal=goal, unit=unit, cap=metric.cap or None, covariate=metric.covariate
            )
        case MetricDefinition.RATIO:
            return RatioMetric(name=metric.name, goal=goal, unit=unit, covariate=metric.covariate)
        case MetricDefinition.PROPORTION:
            return ProportionMetric(name=metric.name, goal=goal, unit=unit)
        case MetricDefinition.SCORE:
            return ScoreMetric(name=metric.name, goal=goal, unit=unit, bounds=Bounds(metric.lowest, metric.highest))
        case _:
            return QuantileMetric(name=metric.name, goal=goal, unit=unit, level=metric.quantile, buckets=BUCKETS)
