"""Bounded scores: exact expected values, intervals, bounds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from drw.models.experiments.statistics.errors import InvalidDesign, InvalidStatistics
from drw.models.experiments.statistics.moments import Moments
from drw.models.experiments.statistics.scores import Bounds, score_interval, score_log_e

UNIT = Bounds(0.0, 1.0)
ALPHA = 0.05


def arm(total: float, units: int) -> Moments:
    return Moments(units, (total,), (total,), (0.0,), (1.0,))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_the_smallest_product_has_an_expected_value_of_at_most_one(rate: float) -> None:
    units, total = 6, 0.0
    for a, b in itertools.product(range(units + 1), repeat=2):
        chance = math.comb(units, a) * math.comb(units, b) * rate ** (a + b) * (1 - rate) ** (2 * units - a - b)
        total += chance * math.exp(score_log_e(arm(a, units), arm(b, units), UNIT, 20, ALPHA))
    assert total <= 1


def test_the_smallest_product_is_no_larger_than_on_a_fine_grid() -> None:
    control, treatment = arm(520.0, 1_000), arm(590.0, 1_000)
    found = score_log_e(control, treatment, UNIT, 5_000, ALPHA)
    prior = 2_500 / (2 * math.log(20) + math.log1p(2 * math.log(20))) - 1

    def log_e(total: float, mean: float) -> float:
        rising = math.lgamma(prior * mean + total) - math.lgamma(prior * mean)
        rising += math.lgamma(prior * (1 - mean) + 1_000 - total) - math.lgamma(prior * (1 - mean))
        constant = math.lgamma(prior) - math.lgamma(prior + 1_000)
        return constant + rising - total * math.log(mean) - (1_000 - total) * math.log1p(-mean)

    grid = min(log_e(520, mean) + log_e(590, mean) for mean in np.linspace(0.5, 0.6, 4_001))
    assert found == pytest.approx(grid, abs=1e-5)


def test_the_interval_covers_the_difference_in_the_units_of_the_score() -> None:
    random = np.random.default_rng(3)
    bounds = Bounds(1.0, 5.0)
    arms = [Moments.of_units((1 + 4 * random.beta(a, 2, (4_000, 1))).tolist()) for a in (4.0, 8.0)]
    interval = score_interval(arms[0], arms[1], bounds, 5_000, ALPHA)
    assert interval is not None
    truth = 4 * (8 / 10 - 4 / 6)
    assert interval.lower < truth < interval.upper
    assert interval.lower > 0
    assert interval.estimate == pytest.approx(arms[1].mean(0) - arms[0].mean(0))
    assert score_log_e(arms[0], arms[1], bounds, 5_000, ALPHA) > -math.log(ALPHA)


@pytest.mark.parametrize("treated", [400.0, 480.0, 520.0, 545.0, 600.0])
def test_the_interval_excludes_zero_exactly_when_the_e_value_reaches_one_over_alpha(treated: float) -> None:
    arms = arm(500.0, 1_000), arm(treated, 1_000)
    interval = score_interval(arms[0], arms[1], UNIT, 5_000, ALPHA)
    assert interval is not None
    excludes = not interval.lower <= 0 <= interval.upper
    assert excludes == (score_log_e(arms[0], arms[1], UNIT, 5_000, ALPHA) >= -math.log(ALPHA))


def test_extreme_scores_have_finite_results() -> None:
    for a, b in itertools.product((0.0, 50.0), repeat=2):
        log_e = score_log_e(arm(a, 50), arm(b, 50), UNIT, 5_000, ALPHA)
        interval = score_interval(arm(a, 50), arm(b, 50), UNIT, 5_000, ALPHA)
        assert math.isfinite(log_e)
        assert interval is not None
        assert -1 <= interval.lower <= interval.estimate <= interval.upper <= 1
        assert (log_e > 3) == (a != b)


def test_one_unit_and_no_units() -> None:
    assert score_interval(arm(1.0, 1), arm(0.0, 1), UNIT, 5_000, ALPHA) is not None
    assert score_interval(Moments.empty(1), arm(0.0, 1), UNIT, 5_000, ALPHA) is None
    assert score_log_e(Moments.empty(1), arm(0.0, 1), UNIT, 5_000, ALPHA) == 0


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (0.0, math.inf)])
def test_invalid_bounds_are_refused(low: float, high: float) -> None:
    with pytest.raises(InvalidDesign, match="finite and increasing"):
        Bounds(low, high)


def test_scores_out_of_bounds_are_refused() -> None:
    with pytest.raises(InvalidStatistics, match="exceed the bounds"):
        score_log_e(Moments.of_unit(1.5), arm(0.0, 1), UNIT, 5_000, ALPHA)
    with pytest.raises(InvalidStatistics, match="one column, not 2"):
        score_log_e(Moments.of_unit(0.5, 1.0), arm(0.0, 1), UNIT, 5_000, ALPHA)
