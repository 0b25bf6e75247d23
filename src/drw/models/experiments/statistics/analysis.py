"""Analysis of an experiment at any time: `analyse(design, arms)`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from drw.models.experiments.statistics.contrasts import Contrast, NoResult, compare_means, compare_ratios
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
)
from drw.models.experiments.statistics.errors import InvalidStatistics, checked_count
from drw.models.experiments.statistics.mixtures import e_value, p_value
from drw.models.experiments.statistics.moments import Moments
from drw.models.experiments.statistics.multiple_testing import e_bh
from drw.models.experiments.statistics.proportions import Events, events_log_e, lift_interval, sample_ratio_log_e
from drw.models.experiments.statistics.quantiles import quantile_intervals, quantile_log_e
from drw.models.experiments.statistics.scores import score_interval, score_log_e
from drw.models.experiments.statistics.sequences import Interval, asymptotic_interval, asymptotic_log_e
from drw.models.experiments.statistics.sketches import Sketch

Statistic = Moments | Events | Sketch
"""Sufficient statistics of one metric in one arm."""


class Decision(StrEnum):
    """The conclusion about one metric of one arm, after e-BH over all comparisons of the experiment."""

    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "undecided"
    NO_RESULT = "no_result"


@dataclass(frozen=True, slots=True)
class ArmStatistics:
    """Units that were assigned to an arm, and the sufficient statistics of its metrics by name."""

    units: int
    metrics: Mapping[str, Statistic] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SampleRatio:
    """Test of the assigned units against the weights. A mismatch invalidates all comparisons."""

    mismatch: bool
    e_value: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of one arm against control.

    Attributes:
        metric, arm, control: names.
        units, control_units: units with a value of the metric.
        difference: arm minus control, with limits. None for a proportion, whose exact limits are relative.
        lift: relative difference, with limits. None where control is not clear of zero, and for scores.
        e_value: evidence against "no difference"; at most 1 on average without one, at any time of looking.
        p_value: always-valid p-value, min(1, 1/e).
        decision: conclusion after e-BH.
        reason: why there is no result or no decision; empty otherwise.
    """

    metric: str
    arm: str
    control: str
    units: int
    control_units: int
    difference: Interval | None
    lift: Interval | None
    e_value: float
    p_value: float
    decision: Decision
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Analysis:
    """The result of an experiment at one time."""

    sample_ratio: SampleRatio
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True, slots=True)
class _Finding:
    """What one comparison yields before e-BH."""

    log_e: float
    difference: Interval | None
    lift: Interval | None
    sign: float
    """Of the effect: positive where the arm exceeds control."""


def analyse(design: Design, arms: Mapping[str, ArmStatistics]) -> Analysis:
    """Compare each arm with control, for each metric. The result is valid at any time and at any number of looks.

    An arm or metric without data yields a comparison without a result.

    Raises:
        InvalidStatistics: an unknown arm or metric, statistics of the wrong kind, or statistics that contradict
            themselves or the design.
    """
    _check_names(design, arms)
    pairs = [(metric, arm, _finding(design, metric, arm, arms)) for metric, arm in design.pairs()]
    log_es = [finding.log_e if isinstance(finding, _Finding) else 0.0 for _, _, finding in pairs]
    rejected = e_bh(log_es, design.alpha)
    ratio = sample_ratio(design, arms)
    comparisons = [
        _comparison(design, metric, arm, arms, finding, decided)
        for (metric, arm, finding), decided in zip(pairs, rejected, strict=True)
    ]
    if ratio.mismatch:
        comparisons = [_withheld(comparison) for comparison in comparisons]
    return Analysis(ratio, tuple(comparisons))


def sample_ratio(design: Design, arms: Mapping[str, ArmStatistics]) -> SampleRatio:
    """Test the units of all arms against the design's weights. It is valid at any time and at any number of looks."""
    units = [arms[arm.name].units if arm.name in arms else 0 for arm in design.arms]
    weights = [arm.weight for arm in design.arms]
    log_e = sample_ratio_log_e(units, weights, design.planned_units, design.srm_alpha)
    return SampleRatio(log_e >= -math.log(design.srm_alpha), e_value(log_e), p_value(log_e))


def _check_names(design: Design, arms: Mapping[str, ArmStatistics]) -> None:
    if unknown := arms.keys() - {arm.name for arm in design.arms}:
        raise InvalidStatistics(f"the design has no arms {sorted(unknown)!r}")
    names = {metric.name for metric in design.metrics}
    for name, statistics in arms.items():
        checked_count(f"units of arm {name!r}", statistics.units)
        if unknown := statistics.metrics.keys() - names:
            raise InvalidStatistics(f"the design has no metrics {sorted(unknown)!r}, found in arm {name!r}")
        for metric, statistic in statistics.metrics.items():
            if statistic.units > statistics.units:
                raise InvalidStatistics(
                    f"metric {metric!r} counts {statistic.units} units of arm {name!r}, which has {statistics.units}"
                )


def _statistic(arms: Mapping[str, ArmStatistics], arm: str, metric: str) -> Statistic | None:
    return arms[arm].metrics.get(metric) if arm in arms else None


def _finding(design: Design, metric: Metric, arm: Arm, arms: Mapping[str, ArmStatistics]) -> _Finding | NoResult:
    control = _statistic(arms, design.arms[0].name, metric.name)
    treatment = _statistic(arms, arm.name, metric.name)
    if control is None or treatment is None or not (control.units and treatment.units):
        return NoResult("an arm has no data")
    match metric, control, treatment:
        case MeanMetric(), Moments(), Moments():
            return _asymptotic(design, metric, control, treatment)
        case ProportionMetric(), Events(), Events():
            weight = arm.weight / (arm.weight + design.arms[0].weight)
            return _proportion(design, metric, control, treatment, weight)
        case ScoreMetric(), Moments(), Moments():
            return _score(design, metric, control, treatment)
        case QuantileMetric(), Sketch(), Sketch():
            return _quantile(design, metric, control, treatment)
    raise InvalidStatistics(
        f"metric {metric.name!r} is a {type(metric).__name__}, which has no statistics of type "
        f"{type(control).__name__} and {type(treatment).__name__}"
    )


def _asymptotic(design: Design, metric: MeanMetric, control: Moments, treatment: Moments) -> _Finding | NoResult:
    ratio = isinstance(metric, RatioMetric)
    compare = compare_ratios if ratio else compare_means
    contrast = compare(control, treatment, covariate=metric.covariate)
    if metric.cap is not None and max(control.highs[ratio], treatment.highs[ratio]) > metric.cap:
        raise InvalidStatistics(f"metric {metric.name!r} has a value above its cap of {metric.cap!r}")
    if (fewest := min(control.units, treatment.units)) < design.first_look:
        return NoResult(f"an arm has {fewest} units; the first look is at {design.first_look}")
    if isinstance(contrast, NoResult):
        return contrast
    return _from_contrast(design, contrast)


def _from_contrast(design: Design, contrast: Contrast) -> _Finding:
    arguments = (contrast.units, design.planned_units, design.alpha)
    lift = contrast.lift
    return _Finding(
        asymptotic_log_e(contrast.difference, *arguments),
        asymptotic_interval(contrast.difference, *arguments),
        asymptotic_interval(lift, *arguments) if lift else None,
        contrast.difference.value,
    )


def _proportion(
    design: Design, metric: ProportionMetric, control: Events, treatment: Events, weight: float
) -> _Finding | NoResult:
    if not (control.events or treatment.events):
        return NoResult("no unit has had the event")
    arguments = (control, treatment, weight, metric.planned_events, design.alpha)
    lift = lift_interval(*arguments)
    return _Finding(events_log_e(*arguments), None, lift, lift.estimate)


def _score(design: Design, metric: ScoreMetric, control: Moments, treatment: Moments) -> _Finding:
    arguments = (control, treatment, metric.bounds, design.planned_units, design.alpha)
    difference = score_interval(*arguments)
    return _Finding(score_log_e(*arguments), difference, None, difference.estimate if difference else 0.0)


def _quantile(design: Design, metric: QuantileMetric, control: Sketch, treatment: Sketch) -> _Finding | NoResult:
    settings = (metric.level, design.planned_units, design.alpha)
    intervals = quantile_intervals(control, treatment, metric.buckets, *settings)
    if intervals is None:
        return NoResult("an arm has no data")
    log_e = quantile_log_e(control, treatment, *settings)
    return _Finding(log_e, intervals.difference, intervals.lift, intervals.difference.estimate)


def _comparison(
    design: Design,
    metric: Metric,
    arm: Arm,
    arms: Mapping[str, ArmStatistics],
    finding: _Finding | NoResult,
    rejected: bool,
) -> Comparison:
    counts = [_statistic(arms, name, metric.name) for name in (arm.name, design.arms[0].name)]
    units, control_units = (statistic.units if statistic else 0 for statistic in counts)
    names = (metric.name, arm.name, design.arms[0].name, units, control_units)
    if isinstance(finding, NoResult):
        return Comparison(*names, None, None, 1.0, 1.0, Decision.NO_RESULT, finding.reason)
    decision = _direction(metric, finding.sign) if rejected else Decision.UNDECIDED
    return Comparison(
        *names, finding.difference, finding.lift, e_value(finding.log_e), p_value(finding.log_e), decision
    )


def _direction(metric: Metric, sign: float) -> Decision:
    return Decision.BETTER if (sign > 0) is (metric.goal is Goal.INCREASE) else Decision.WORSE


def _withheld(comparison: Comparison) -> Comparison:
    if comparison.decision is Decision.NO_RESULT:
        return comparison
    return replace(
        comparison,
        decision=Decision.UNDECIDED,
        reason="sample ratio mismatch: units are not assigned by the weights. Find the cause before any decision",
    )
