"""Fixed-horizon z-test and estimates of the units needed."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from drw.models.experiments.statistics.contrasts import Estimate
from drw.models.experiments.statistics.errors import InvalidDesign
from drw.models.experiments.statistics.mixtures import normal_bound, normal_rho
from drw.models.experiments.statistics.sample_size import (
    fixed_units_needed,
    proportion_deviation,
    units_needed,
    z_test_interval,
    z_test_p_value,
)


@pytest.mark.parametrize(("z", "p"), [(0.0, 1.0), (1.959964, 0.05), (2.575829, 0.01), (-3.290527, 0.001)])
def test_p_values_are_those_of_the_normal_distribution(z: float, p: float) -> None:
    assert z_test_p_value(Estimate(z * 0.3, 0.09)) == pytest.approx(p, rel=1e-5)


def test_the_z_test_has_an_interval_of_1_96_deviations() -> None:
    interval = z_test_interval(Estimate(1.0, 4.0), 0.05)
    assert (interval.lower, interval.upper) == pytest.approx((1 - 2 * 1.959964, 1 + 2 * 1.959964))


def test_fixed_sample_size_equals_the_textbook_formula() -> None:
    # 80 % power at 5 % for 0.1 standard deviations: 2 (1.959964 + 0.841621)^2 / 0.01 = 1569.8
    assert fixed_units_needed(1.0, 0.1) == 1570
    assert fixed_units_needed(1.0, -0.1) == 1570
    assert fixed_units_needed(proportion_deviation(0.5), 0.05) == 1570


def test_the_sequential_sample_size_is_the_first_with_the_power() -> None:
    needed = units_needed(2.0, 0.2)
    rho = normal_rho(5_000, 0.05)

    def margin(units: int) -> float:
        return 0.1 * math.sqrt(units / 2) - normal_bound(2 * units, rho, 0.05) - 0.8416212

    assert margin(needed) >= 0 > margin(needed - 1)
    assert fixed_units_needed(2.0, 0.2) < needed < 3 * fixed_units_needed(2.0, 0.2)


@pytest.mark.parametrize("call", [fixed_units_needed, units_needed])
@pytest.mark.parametrize(
    ("deviation", "effect", "alpha", "power"),
    [
        (0.0, 0.1, 0.05, 0.8),
        (math.nan, 0.1, 0.05, 0.8),
        (1.0, 0.0, 0.05, 0.8),
        (1.0, math.inf, 0.05, 0.8),
        (1.0, 0.1, 0.0, 0.8),
        (1.0, 0.1, 0.05, 1.0),
    ],
)
def test_invalid_arguments_are_refused(
    call: Callable[..., int], deviation: float, effect: float, alpha: float, power: float
) -> None:
    with pytest.raises(InvalidDesign):
        call(deviation, effect, alpha=alpha, power=power)


def test_an_effect_beyond_reach_is_refused() -> None:
    with pytest.raises(InvalidDesign, match="too many units"):
        units_needed(1.0, 1e-9)
    with pytest.raises(InvalidDesign, match="the rate"):
        proportion_deviation(1.0)
