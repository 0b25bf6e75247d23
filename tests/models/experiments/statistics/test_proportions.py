"""Event rates and sample ratio mismatch: exact expected values, intervals, invalid counts."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from drw.models.experiments.statistics.errors import InvalidDesign, InvalidStatistics
from drw.models.experiments.statistics.mixtures import concentration
from drw.models.experiments.statistics.proportions import (
    Events,
    events_log_e,
    lift_interval,
    sample_ratio_log_e,
    shares,
)
from support.json_types import Json

ALPHA = 0.05


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.9])
@pytest.mark.parametrize("weight", [0.5, 0.05])
def test_equal_rates_have_the_expected_value_one_at_any_rate_and_allocation(rate: float, weight: float) -> None:
    units, total = 8, 0.0
    cells = (rate * (1 - weight), rate * weight, 1 - rate)
    for a, b in itertools.product(range(units + 1), repeat=2):
        if (rest := units - a - b) >= 0:
            ways = math.factorial(units) / (math.factorial(a) * math.factorial(b) * math.factorial(rest))
            chance = ways * cells[0] ** a * cells[1] ** b * cells[2] ** rest
            total += chance * math.exp(events_log_e(Events(units, a), Events(units, b), weight, 20, ALPHA))
    assert total == pytest.approx(1, rel=1e-12)


def test_the_e_value_equals_the_integral_over_the_share() -> None:
    control, treatment, weight = Events(1_000, 12), Events(1_000, 25), 0.5
    prior = concentration(200, ALPHA)
    share = np.linspace(0, 1, 200_001)[1:-1]
    log_density = (prior * weight - 1) * np.log(share) + (prior * (1 - weight) - 1) * np.log1p(-share)
    log_density += math.lgamma(prior) - 2 * math.lgamma(prior / 2)
    ratio = np.exp(25 * np.log(share / weight) + 12 * np.log((1 - share) / (1 - weight)) + log_density)
    expected = np.trapezoid(ratio, share)
    assert math.exp(events_log_e(control, treatment, weight, 200, ALPHA)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("weight", [0.5, 0.2, 0.7])
@pytest.mark.parametrize("treated", range(0, 80, 5))
def test_the_interval_excludes_zero_exactly_when_the_e_value_reaches_one_over_alpha(
    treated: int, weight: float
) -> None:
    control, treatment = Events(2_000, 30), Events(2_000, treated)
    interval = lift_interval(control, treatment, weight, 200, ALPHA)
    excludes = not interval.lower <= 0 <= interval.upper
    assert excludes == (events_log_e(control, treatment, weight, 200, ALPHA) >= -math.log(ALPHA))


def test_the_interval_narrows_to_the_ratio_of_the_rates() -> None:
    widths = []
    for scale in (1, 10, 100, 1_000):
        interval = lift_interval(Events(1_000 * scale, 20 * scale), Events(1_000 * scale, 30 * scale), 0.5, 200, ALPHA)
        assert interval.estimate == pytest.approx(0.5)
        assert interval.lower < 0.5 < interval.upper
        widths.append(interval.upper - interval.lower)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.11


def test_arms_without_events_have_one_sided_intervals() -> None:
    none = Events(1_000, 0)
    assert lift_interval(none, Events(1_000, 30), 0.5, 200, ALPHA).upper == math.inf
    assert lift_interval(none, Events(1_000, 30), 0.5, 200, ALPHA).lower > 0
    assert lift_interval(Events(1_000, 30), none, 0.5, 200, ALPHA).lower == -1
    assert lift_interval(Events(1_000, 30), none, 0.5, 200, ALPHA).upper < 0
    both = lift_interval(none, none, 0.5, 200, ALPHA)
    assert (both.lower, both.upper) == (-1, math.inf)
    assert events_log_e(none, none, 0.5, 200, ALPHA) == pytest.approx(0)


def test_merged_events_are_added() -> None:
    assert Events(10, 2) + Events(5, 5) == Events(15, 7)


@pytest.mark.parametrize(
    ("units", "events"), [(-1, 0), (10, -1), (10, 11), (2**54, 0), (1.5, 1), (10, math.nan), (10, True)]
)
def test_invalid_counts_are_refused(units: Json, events: Json) -> None:
    with pytest.raises(InvalidStatistics):
        Events(units, events)


def test_sample_ratio_finds_a_mismatch_and_accepts_the_weights() -> None:
    threshold = -math.log(0.001)
    assert sample_ratio_log_e((4_700, 5_300), (1, 1), 5_000, 0.001) > threshold
    assert sample_ratio_log_e((5_000, 5_000), (1, 1), 5_000, 0.001) < 0
    assert sample_ratio_log_e((5_000, 3_000, 2_000), (50, 30, 20), 5_000, 0.001) < 0
    assert sample_ratio_log_e((5_400, 2_800, 1_800), (50, 30, 20), 5_000, 0.001) > threshold
    assert sample_ratio_log_e((0, 0), (1, 1), 5_000, 0.001) == pytest.approx(0)
    assert sample_ratio_log_e((2**52, 2**52), (1, 1), 5_000, 0.001) < 0


def test_sample_ratio_of_two_arms_does_not_depend_on_their_order() -> None:
    assert sample_ratio_log_e((60, 40), (3, 2), 50, 0.01) == pytest.approx(
        sample_ratio_log_e((40, 60), (2, 3), 50, 0.01)
    )


@pytest.mark.parametrize("weights", [(1,), (), (1, 0), (1, -1), (1, math.nan), (1, math.inf)])
def test_invalid_weights_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(InvalidDesign):
        shares(weights)


def test_invalid_units_are_refused() -> None:
    with pytest.raises(InvalidStatistics, match="1 arms for 2 weights"):
        sample_ratio_log_e((1,), (1, 1), 5_000, 0.001)
    with pytest.raises(InvalidStatistics, match="between 0 and"):
        sample_ratio_log_e((1, -1), (1, 1), 5_000, 0.001)
