"""Designs that are refused, and the message that says what to change."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

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
from support.json_types import Json

COST = MeanMetric(name="cost", goal=Goal.DECREASE, unit=Unit.USER)
ERRORS = RatioMetric(name="errors", goal=Goal.DECREASE, unit=Unit.USER)
FAILED = ProportionMetric(name="failed", goal=Goal.DECREASE, unit=Unit.USER)
GRADE = ScoreMetric(name="grade", goal=Goal.INCREASE, unit=Unit.USER, bounds=Bounds(0.0, 1.0))
P99 = QuantileMetric(name="p99", goal=Goal.DECREASE, unit=Unit.USER, level=0.99, buckets=Buckets(0.01, 100.0))
HALVES = (Arm("control", 0.5), Arm("new", 0.5))


def design(
    arms: tuple[Arm, ...] = HALVES, metrics: tuple[Metric, ...] = (COST,), unit: Unit = Unit.USER, **other: Json
) -> Design:
    return Design(arms=arms, metrics=metrics, unit=unit, **other)


def test_a_valid_design_compares_each_metric_of_each_arm_with_control() -> None:
    arms = (Arm("control", 2), Arm("a", 1), Arm("b", 1))
    made = design(arms, (COST, ERRORS, FAILED, GRADE, P99))
    assert [(metric.name, arm.name) for metric, arm in made.pairs()][:3] == [
        ("cost", "a"),
        ("cost", "b"),
        ("errors", "a"),
    ]
    assert len(list(made.pairs())) == 10


@pytest.mark.parametrize("metric", [COST, ERRORS])
@pytest.mark.parametrize("weights", [(5, 95), (95, 5), (1, 2.01)])
def test_an_asymptotic_comparison_of_unequal_arms_is_refused(
    metric: MeanMetric | RatioMetric, weights: tuple[int, float]
) -> None:
    arms = tuple(Arm(name, weight) for name, weight in zip(("control", "canary"), weights, strict=True))
    with pytest.raises(InvalidDesign, match="Compare a canary with a control of the same size: 1-5-10-25-50 %"):
        design(arms, (metric,))


@pytest.mark.parametrize("metric", [FAILED, GRADE, P99])
def test_an_exact_comparison_takes_any_allocation_and_first_look(
    metric: ProportionMetric | QuantileMetric | ScoreMetric,
) -> None:
    assert design((Arm("control", 95), Arm("canary", 5)), (metric,), first_look=1).first_look == 1


def test_a_first_look_at_a_few_units_is_refused() -> None:
    with pytest.raises(InvalidDesign, match="first_look is 499.*look first at 500 or more units an arm"):
        design(first_look=499)


def test_a_ratio_whose_unit_is_the_request_is_refused() -> None:
    metric = RatioMetric(name="errors", goal=Goal.DECREASE, unit=Unit.REQUEST)
    with pytest.raises(InvalidDesign, match="requests of one user are not independent"):
        design(metrics=(metric,), unit=Unit.REQUEST)


@pytest.mark.parametrize("metric", [COST, ERRORS, FAILED, GRADE, P99])
def test_a_metric_that_counts_another_unit_than_the_experiment_assigns_is_refused(
    metric: MeanMetric | ProportionMetric | QuantileMetric | RatioMetric | ScoreMetric,
) -> None:
    with pytest.raises(InvalidDesign, match="counts by user, but the experiment assigns by document"):
        design(metrics=(metric,), unit=Unit.DOCUMENT)


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ((), "two or more"),
        ((Arm("control", 1),), "two or more"),
        ((Arm("a", 1), Arm("a", 1)), "names of arms must be distinct"),
        ((Arm("a", 1), Arm("", 1)), "names of arms"),
        (tuple(Arm(f"a{i}", 1) for i in range(21)), "at most 20 arms, not 21"),
        ((Arm("a", 1), Arm("b", 0)), "positive, finite weights"),
        ((Arm("a", 1), Arm("b", -1)), "positive, finite weights"),
        ((Arm("a", 1), Arm("b", math.nan)), "positive, finite weights"),
        ((Arm("a", 1), Arm("b", math.inf)), "positive, finite weights"),
    ],
)
def test_invalid_arms_are_refused(arms: tuple[Arm, ...], message: str) -> None:
    with pytest.raises(InvalidDesign, match=message):
        design(arms)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ((), "1 to 100 metrics, not 0"),
        (tuple(replace(COST, name=f"m{i}") for i in range(101)), "1 to 100 metrics, not 101"),
        ((COST, COST), "names of metrics must be distinct"),
        ((MeanMetric(name="m", goal=Goal.INCREASE, unit=Unit.USER, cap=math.inf),), "cap of metric 'm' must be finite"),
        ((MeanMetric(name="m", goal=Goal.INCREASE, unit=Unit.USER, cap=math.nan),), "cap of metric 'm' must be finite"),
        ((ProportionMetric(name="m", goal=Goal.INCREASE, unit=Unit.USER, planned_events=0),), "planned_events of 'm'"),
        (
            (QuantileMetric(name="m", goal=Goal.INCREASE, unit=Unit.USER, level=1.0, buckets=Buckets(1, 2)),),
            "the level of metric 'm'",
        ),
    ],
)
def test_invalid_metrics_are_refused(
    metrics: tuple[MeanMetric | ProportionMetric | QuantileMetric, ...], message: str
) -> None:
    with pytest.raises(InvalidDesign, match=message):
        design(metrics=metrics)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("alpha", 0.0),
        ("alpha", 1.0),
        ("alpha", math.nan),
        ("srm_alpha", 0.0),
        ("srm_alpha", math.nan),
        ("planned_units", 0),
        ("first_look", 0),
    ],
)
def test_invalid_settings_are_refused(setting: str, value: Json) -> None:
    with pytest.raises(InvalidDesign, match=setting):
        design(metrics=(FAILED,), **{setting: value})
