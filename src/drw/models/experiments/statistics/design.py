"""Design of an experiment: arms, metrics, error rates. Designs without a valid analysis are refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from drw.models.experiments.statistics.errors import InvalidDesign, checked_probability
from drw.models.experiments.statistics.proportions import shares
from drw.models.experiments.statistics.scores import Bounds
from drw.models.experiments.statistics.sketches import Buckets

FIRST_LOOK = 500
"""Units an arm before an asymptotic result."""
MAX_ARMS = 20
MAX_METRICS = 100
LARGEST_RATIO = 2.0
"""Of the weights of two arms that an asymptotic metric compares."""


class Unit(StrEnum):
    """The unit of randomisation and of analysis."""

    USER = "user"
    KEY = "key"
    SESSION = "session"
    DOCUMENT = "document"
    REQUEST = "request"


class Goal(StrEnum):
    """The direction of change that is an improvement."""

    INCREASE = "increase"
    DECREASE = "decrease"


@dataclass(frozen=True, slots=True)
class Arm:
    """An arm with its share of the units, relative to the other arms."""

    name: str
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric with a value for each unit; `unit` is the unit that its statistics count."""

    name: str
    goal: Goal
    unit: Unit

    @property
    def asymptotic(self) -> bool:
        """Whether validity needs many units and arms of a similar size."""
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanMetric(Metric):
    """The mean of a value over units, such as the cost of a session. Statistics: `Moments`.

    Attributes:
        cap: the largest value that a unit contributes. Larger values are recorded as the cap.
        covariate: whether the moments have a second column from before the experiment (CUPED).
    """

    cap: float | None = None
    covariate: bool = False

    @property
    def asymptotic(self) -> bool:
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioMetric(MeanMetric):
    """Sum of numerators / sum of denominators over units, such as errors / requests of users. Statistics: `Moments`.

    The cap applies to the denominator: record only the first requests of a unit, up to the cap.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class ProportionMetric(Metric):
    """The share of units that have an event. Statistics: `Events`.

    Count the rarer outcome, such as the error: the test uses the units with the event.

    Attributes:
        planned_events: events of both arms at which the interval is to be narrowest.
    """

    planned_events: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreMetric(Metric):
    """The mean of a bounded score over units, such as a judge's grade. Statistics: `Moments` with one column."""

    bounds: Bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantileMetric(Metric):
    """A quantile of values where each unit has the same weight, such as the p99 of latency. Statistics: `Sketch`."""

    level: float
    buckets: Buckets


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """An experiment whose arms are compared with the first one, control.

    Attributes:
        arms: control first.
        metrics: what is compared.
        unit: what is assigned to an arm.
        alpha: expected share of false discoveries among all discoveries, and one minus the coverage of intervals.
        srm_alpha: probability of a false alarm of sample ratio mismatch.
        first_look: units an arm before the first result of an asymptotic metric.
        planned_units: units of two compared arms at which intervals are narrowest. They are valid at all sizes.

    Raises:
        InvalidDesign: there is no valid analysis. The message says what to change.
    """

    arms: tuple[Arm, ...]
    metrics: tuple[Metric, ...]
    unit: Unit
    alpha: float = 0.05
    srm_alpha: float = 0.001
    first_look: int = FIRST_LOOK
    planned_units: int = 5000

    def __post_init__(self) -> None:
        checked_probability("alpha", self.alpha)
        checked_probability("srm_alpha", self.srm_alpha)
        shares([arm.weight for arm in self.arms])
        _check_distinct("arms", [arm.name for arm in self.arms])
        _check_distinct("metrics", [metric.name for metric in self.metrics])
        if len(self.arms) > MAX_ARMS:
            raise InvalidDesign(f"an experiment has at most {MAX_ARMS} arms, not {len(self.arms)}")
        if not 1 <= len(self.metrics) <= MAX_METRICS:
            raise InvalidDesign(f"an experiment has 1 to {MAX_METRICS} metrics, not {len(self.metrics)}")
        if self.planned_units < 1:
            raise InvalidDesign(f"planned_units must be positive, not {self.planned_units!r}")
        if self.first_look < 1:
            raise InvalidDesign(f"first_look must be positive, not {self.first_look!r}")
        for metric in self.metrics:
            self._check_metric(metric)

    def _check_metric(self, metric: Metric) -> None:
        if metric.unit is not self.unit:
            raise InvalidDesign(
                f"metric {metric.name!r} counts by {metric.unit.value}, but the experiment assigns by "
                f"{self.unit.value}: values of one {self.unit.value} are not independent. "
                f"Record one value for each {self.unit.value}"
            )
        if isinstance(metric, RatioMetric) and metric.unit is Unit.REQUEST:
            raise InvalidDesign(
                f"metric {metric.name!r} is a ratio whose unit is the request: requests of one user are not "
                "independent. Assign by user, session or document, and record a numerator and a denominator for each"
            )
        if isinstance(metric, MeanMetric) and metric.cap is not None and not math.isfinite(metric.cap):
            raise InvalidDesign(f"the cap of metric {metric.name!r} must be finite, not {metric.cap!r}")
        if isinstance(metric, QuantileMetric):
            checked_probability(f"the level of metric {metric.name!r}", metric.level)
        if isinstance(metric, ProportionMetric) and metric.planned_events < 1:
            raise InvalidDesign(f"planned_events of {metric.name!r} must be positive, not {metric.planned_events!r}")
        if metric.asymptotic:
            self._check_asymptotic(metric)

    def _check_asymptotic(self, metric: Metric) -> None:
        if self.first_look < FIRST_LOOK:
            raise InvalidDesign(
                f"first_look is {self.first_look}, but metric {metric.name!r} relies on the central limit theorem: "
                f"look first at {FIRST_LOOK} or more units an arm, or use a proportion, score or quantile metric"
            )
        control = self.arms[0]
        for arm in self.arms[1:]:
            ratio = max(arm.weight, control.weight) / min(arm.weight, control.weight)
            if ratio > LARGEST_RATIO * (1 + 1e-9):
                raise InvalidDesign(
                    f"arms {control.name!r} and {arm.name!r} have weights {control.weight!r} and {arm.weight!r}; "
                    f"metric {metric.name!r} allows a ratio of at most {LARGEST_RATIO:g}, since unequal arms have far "
                    "more false positives than alpha. Compare a canary with a control of the same size: 1-5-10-25-50 % "
                    "of the traffic in the experiment, half of it in each arm"
                )

    def pairs(self) -> Iterator[tuple[Metric, Arm]]:
        """Yield the comparisons with control: each metric with each other arm."""
        for metric in self.metrics:
            for arm in self.arms[1:]:
                yield metric, arm


def _check_distinct(what: str, names: list[str]) -> None:
    if len(set(names)) != len(names) or not all(names):
        raise InvalidDesign(f"names of {what} must be distinct and not empty, not {names!r}")
