"""The analysis of an experiment: each kind of metric, decisions after e-BH, mismatch, and reasons for no result."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from drw.models.experiments.statistics.analysis import (
    Analysis,
    ArmStatistics,
    Comparison,
    Decision,
    Statistic,
    analyse,
)
from drw.models.experiments.statistics.design import (
    Arm,
    Design,
    Goal,
    MeanMetric,
    ProportionMetric,
    QuantileMetric,
    RatioMetric,
    ScoreMetric,
    Unit,
)
from drw.models.experiments.statistics.errors import InvalidStatistics
from drw.models.experiments.statistics.moments import Moments
from drw.models.experiments.statistics.proportions import Events
from drw.models.experiments.statistics.scores import Bounds
from drw.models.experiments.statistics.sketches import Buckets, Sketch

LATENCY = Buckets(0.01, 100.0, 0.02)
DESIGN = Design(
    arms=(Arm("control", 0.5), Arm("new", 0.5)),
    metrics=(
        MeanMetric(name="cost", goal=Goal.DECREASE, unit=Unit.USER, cap=50.0),
        MeanMetric(name="turns", goal=Goal.DECREASE, unit=Unit.USER, covariate=True),
        RatioMetric(name="errors", goal=Goal.DECREASE, unit=Unit.USER, cap=100),
        ProportionMetric(name="failed", goal=Goal.DECREASE, unit=Unit.USER),
        ScoreMetric(name="grade", goal=Goal.INCREASE, unit=Unit.USER, bounds=Bounds(0.0, 1.0)),
        QuantileMetric(name="p90", goal=Goal.DECREASE, unit=Unit.USER, level=0.9, buckets=LATENCY),
    ),
    unit=Unit.USER,
)


def arm(seed: int, shift: float = 0.0, units: int = 4_000) -> ArmStatistics:
    """Draw an arm whose every metric moves by `shift` standard deviations, or that share of the rate."""
    random = np.random.default_rng(seed)
    before = random.standard_normal(units)
    turns = 10 + 0.7 * before + 0.7 * random.standard_normal(units) + shift
    requests = 1 + random.poisson(10, units)
    errors = random.binomial(requests, 0.05 * (1 + shift))
    index = np.searchsorted(LATENCY.edges, np.exp(0.5 * random.standard_normal(units)) * (1 + shift))
    metrics: dict[str, Statistic] = {
        "cost": Moments.of_units((5 + random.standard_normal((units, 1)) + shift).tolist()),
        "turns": Moments.of_units(np.column_stack([turns, before]).tolist()),
        "errors": Moments.of_units(np.column_stack([errors, requests]).tolist()),
        "failed": Events(units, int(random.binomial(units, 0.05 * (1 + 2 * shift)))),
        "grade": Moments.of_units(random.beta(7 * (1 + shift / 2), 3, (units, 1)).tolist()),
        "p90": Sketch(units, tuple(np.bincount(index, minlength=len(LATENCY)).astype(float).tolist())),
    }
    return ArmStatistics(units, metrics)


def by_metric(analysis: Analysis) -> dict[str, Comparison]:
    return {comparison.metric: comparison for comparison in analysis.comparisons}


def test_an_effect_is_found_in_each_metric_with_its_direction() -> None:
    analysis = analyse(DESIGN, {"control": arm(1), "new": arm(2, 0.4)})
    found = by_metric(analysis)
    assert not analysis.sample_ratio.mismatch
    assert {name: comparison.decision for name, comparison in found.items()} == {
        "cost": Decision.WORSE,
        "turns": Decision.WORSE,
        "errors": Decision.WORSE,
        "failed": Decision.WORSE,
        "grade": Decision.BETTER,
        "p90": Decision.WORSE,
    }
    for comparison in found.values():
        assert (comparison.units, comparison.control_units, comparison.control) == (4_000, 4_000, "control")
        assert comparison.reason == ""
        assert comparison.p_value == pytest.approx(1 / comparison.e_value)
        for interval in (comparison.difference, comparison.lift):
            assert interval is None or 0 < interval.lower < interval.estimate < interval.upper
    truths = {"cost": 0.4 / 5, "turns": 0.4 / 10, "errors": 0.4, "failed": 0.8, "p90": 0.4}
    for name, truth in truths.items():
        lift = found[name].lift
        assert lift is not None
        assert lift.lower < truth < lift.upper


def test_arms_without_a_difference_are_undecided() -> None:
    found = by_metric(analyse(DESIGN, {"control": arm(3), "new": arm(4)}))
    assert {comparison.decision for comparison in found.values()} == {Decision.UNDECIDED}
    assert all(comparison.e_value < 20 for comparison in found.values())


def test_the_decision_follows_e_bh_over_all_comparisons() -> None:
    metrics = tuple(ProportionMetric(name=f"m{i}", goal=Goal.DECREASE, unit=Unit.USER) for i in range(10))
    one = replace(DESIGN, metrics=metrics[:1])
    many = replace(DESIGN, metrics=metrics)
    moderate, equal = Events(4_000, 93), Events(4_000, 50)

    def decision(design: Design) -> Comparison:
        control: dict[str, Statistic] = {metric.name: equal for metric in design.metrics}
        arms = {"control": ArmStatistics(4_000, control), "new": ArmStatistics(4_000, {**control, "m0": moderate})}
        return by_metric(analyse(design, arms))["m0"]

    assert 20 < decision(one).e_value < 200
    assert decision(one).decision is Decision.WORSE
    assert decision(many).e_value == decision(one).e_value
    assert decision(many).decision is Decision.UNDECIDED


def test_a_sample_ratio_mismatch_withholds_decisions() -> None:
    analysis = analyse(DESIGN, {"control": arm(1, units=5_000), "new": arm(2, 0.4, units=4_000)})
    assert analysis.sample_ratio.mismatch
    assert analysis.sample_ratio.p_value < 0.001
    for comparison in analysis.comparisons:
        assert comparison.decision is Decision.UNDECIDED
        assert comparison.reason.startswith("sample ratio mismatch")


def test_the_first_look_is_at_500_units_for_asymptotic_metrics_only() -> None:
    found = by_metric(analyse(DESIGN, {"control": arm(1, units=499), "new": arm(2, 1.0, units=499)}))
    for name in ("cost", "turns", "errors"):
        assert found[name].decision is Decision.NO_RESULT
        assert found[name].reason == "an arm has 499 units; the first look is at 500"
        assert (found[name].e_value, found[name].p_value) == (1, 1)
        assert found[name].difference is None
    assert found["p90"].decision is Decision.WORSE


def test_missing_arms_and_metrics_have_no_result() -> None:
    assert {c.reason for c in analyse(DESIGN, {}).comparisons} == {"an arm has no data"}
    empty = ArmStatistics(0)
    analysis = analyse(DESIGN, {"control": empty, "new": empty})
    assert {c.decision for c in analysis.comparisons} == {Decision.NO_RESULT}
    assert analysis.sample_ratio.e_value == 1
    some = by_metric(analyse(DESIGN, {"control": arm(1), "new": ArmStatistics(4_000)}))
    assert (some["cost"].units, some["cost"].control_units) == (0, 4_000)


def test_one_unit_and_equal_values_have_no_result() -> None:
    one = ArmStatistics(1, {"cost": Moments.of_unit(1.0), "turns": Moments.of_unit(1.0, 2.0), "failed": Events(1, 0)})
    found = by_metric(analyse(DESIGN, {"control": one, "new": one}))
    assert found["cost"].decision is found["turns"].decision is found["failed"].decision is Decision.NO_RESULT
    assert found["failed"].reason == "no unit has had the event"
    same = ArmStatistics(600, {"cost": Moments.of_units([(1.0,)] * 600)})
    assert by_metric(analyse(DESIGN, {"control": same, "new": same}))["cost"].reason.endswith("the same value")


def test_several_arms_are_each_compared_with_control() -> None:
    design = replace(DESIGN, arms=(Arm("control", 1), Arm("a", 1), Arm("b", 1)), metrics=DESIGN.metrics[:1])
    drawn = {"control": arm(1), "a": arm(2), "b": arm(3, 0.4)}
    arms = {name: ArmStatistics(each.units, {"cost": each.metrics["cost"]}) for name, each in drawn.items()}
    found = analyse(design, arms).comparisons
    assert [(c.arm, c.decision) for c in found] == [("a", Decision.UNDECIDED), ("b", Decision.WORSE)]


def test_the_result_consists_of_plain_values() -> None:
    text = json.dumps(asdict(analyse(DESIGN, {"control": arm(1), "new": arm(2, 0.4)})))
    assert json.loads(text)["comparisons"][0]["decision"] == "worse"


def test_overwhelming_evidence_stays_finite() -> None:
    huge = replace(DESIGN, metrics=(DESIGN.metrics[3],))
    arms = {
        "control": ArmStatistics(10**12, {"failed": Events(10**12, 10**10)}),
        "new": ArmStatistics(10**12, {"failed": Events(10**12, 2 * 10**10)}),
    }
    (comparison,) = analyse(huge, arms).comparisons
    assert math.isfinite(comparison.e_value)
    assert comparison.p_value == 0
    assert comparison.lift is not None
    assert comparison.lift.lower == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({"other": ArmStatistics(0)}, "no arms"),
        ({"new": ArmStatistics(0, {"other": Events(0, 0)})}, "no metrics"),
        ({"new": ArmStatistics(5, {"failed": Events(6, 0)})}, "counts 6 units of arm 'new', which has 5"),
        ({"new": ArmStatistics(-1)}, "units of arm 'new' must be between"),
    ],
)
def test_statistics_that_contradict_the_design_are_refused(arms: dict[str, ArmStatistics], message: str) -> None:
    with pytest.raises(InvalidStatistics, match=message):
        analyse(DESIGN, arms)


def test_statistics_of_the_wrong_kind_are_refused() -> None:
    wrong = ArmStatistics(600, {"cost": Events(600, 5)})
    with pytest.raises(InvalidStatistics, match="'cost' is a MeanMetric"):
        analyse(DESIGN, {"control": wrong, "new": wrong})
    two = ArmStatistics(600, {"cost": Moments.of_units([(1.0, 2.0), (2.0, 1.0)] * 300)})
    with pytest.raises(InvalidStatistics, match="1 columns are needed, not 2"):
        analyse(DESIGN, {"control": two, "new": two})


def test_values_above_the_cap_are_refused() -> None:
    above = ArmStatistics(600, {"cost": Moments.of_units([(1.0,), (50.5,)] * 300)})
    with pytest.raises(InvalidStatistics, match="above its cap of 50.0"):
        analyse(DESIGN, {"control": above, "new": above})
    requests = ArmStatistics(600, {"errors": Moments.of_units([(1.0, 101.0), (0.0, 3.0)] * 300)})
    with pytest.raises(InvalidStatistics, match="above its cap of 100"):
        analyse(DESIGN, {"control": requests, "new": requests})
