"""Closed forms of the mixtures against numerical integration, exact enumeration and published values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from drw.models.experiments.statistics.errors import InvalidDesign, InvalidStatistics
from drw.models.experiments.statistics.mixtures import (
    concentration,
    crossing,
    dirichlet_log_e,
    e_value,
    minimum,
    normal_bound,
    normal_log_e,
    normal_rho,
    p_value,
)

# The values of "published" tests are from the unit tests of confseq (gostevehoward/confseq,
# test/uniform_boundaries_unittest.cpp), which come from the authors' reference implementation in R.


def test_normal_mixture_has_its_published_value() -> None:
    rho = normal_rho(100, 0.05)
    assert 1 / rho**2 == pytest.approx(12.60056, abs=1e-5)
    assert normal_log_e(10**2 / 100, 100, rho) == pytest.approx(-0.6510052, abs=1e-7)
    assert normal_bound(100, rho, 0.05) * math.sqrt(100) == pytest.approx(30.35209, abs=1e-5)


def test_beta_binomial_mixture_has_its_published_value() -> None:
    units = 100 / (0.2 * 0.8)  # a variance of 100
    below = 0.2 * units + 10
    log_e = dirichlet_log_e((below, units - below), (0.2, 0.8), concentration(units, 0.05))
    assert log_e == pytest.approx(-0.6941012, abs=1e-7)


@pytest.mark.parametrize(("total", "units", "rho"), [(12.0, 50, 0.3), (-80.0, 400, 0.05), (0.0, 7, 1.5)])
def test_normal_mixture_equals_the_integral_over_the_drift(total: float, units: int, rho: float) -> None:
    drift = np.linspace(-12 * rho, 12 * rho, 200_001)
    density = np.exp(-(drift**2) / (2 * rho**2)) / (rho * math.sqrt(2 * math.pi))
    integral = np.trapezoid(np.exp(drift * total - units * drift**2 / 2) * density, drift)
    assert math.exp(normal_log_e(total**2 / units, units, rho)) == pytest.approx(integral, rel=1e-9)


@pytest.mark.parametrize(
    ("events", "units", "rate", "prior"), [(9, 30, 0.2, 10.0), (2.5, 40.0, 0.1, 30.0), (0, 5, 0.5, 4)]
)
def test_beta_mixture_equals_the_integral_over_the_rate(events: float, units: float, rate: float, prior: float) -> None:
    theta = np.linspace(0, 1, 400_003)[1:-1]
    a, b = prior * rate, prior * (1 - rate)
    log_density = (a - 1) * np.log(theta) + (b - 1) * np.log1p(-theta)
    log_density += math.lgamma(prior) - math.lgamma(a) - math.lgamma(b)
    log_ratio = events * np.log(theta / rate) + (units - events) * np.log((1 - theta) / (1 - rate))
    integral = np.trapezoid(np.exp(log_density + log_ratio), theta)
    assert math.exp(dirichlet_log_e((events, units - events), (rate, 1 - rate), prior)) == pytest.approx(
        integral, rel=1e-6
    )


def test_dirichlet_mixture_has_the_expected_value_one_under_the_null() -> None:
    probabilities, units = (0.5, 0.3, 0.2), 9
    total = 0.0
    for a, b in itertools.product(range(units + 1), repeat=2):
        if (c := units - a - b) >= 0:
            ways = math.factorial(units) / (math.factorial(a) * math.factorial(b) * math.factorial(c))
            chance = ways * probabilities[0] ** a * probabilities[1] ** b * probabilities[2] ** c
            total += chance * math.exp(dirichlet_log_e((a, b, c), probabilities, 7.5))
    assert total == pytest.approx(1, rel=1e-12)


def test_fractional_counts_have_an_expected_value_of_at_most_one() -> None:
    scores, chances = (0.0, 0.5, 1.0), (0.3, 0.5, 0.2)
    mean = sum(score * chance for score, chance in zip(scores, chances, strict=True))
    total = 0.0
    for path in itertools.product(range(3), repeat=6):
        chance = math.prod(chances[i] for i in path)
        observed = sum(scores[i] for i in path)
        total += chance * math.exp(dirichlet_log_e((observed, 6 - observed), (mean, 1 - mean), 3.0))
    assert 0.5 < total < 1


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("units", [10, 5_000, 1_000_000])
def test_the_bound_is_where_the_e_value_reaches_one_over_alpha(units: int, alpha: float) -> None:
    rho = normal_rho(5_000, alpha)
    z = normal_bound(units, rho, alpha)
    assert normal_log_e(z * z, units, rho) == pytest.approx(-math.log(alpha), rel=1e-12)


def test_rho_makes_the_interval_narrowest_at_the_planned_units() -> None:
    rho = normal_rho(5_000, 0.05)
    assert all(normal_bound(5_000, rho, 0.05) < normal_bound(5_000, rho * factor, 0.05) for factor in (0.9, 1.1))


def test_e_and_p_values_stay_finite_and_in_range() -> None:
    assert e_value(0.0) == p_value(0.0) == p_value(-5.0) == 1
    assert math.isfinite(e_value(1e9))
    assert p_value(1e9) == 0
    assert e_value(math.log(20)) == pytest.approx(20)


def test_crossing_finds_a_root_and_minimum_the_lowest_point() -> None:
    assert crossing(lambda x: x * x - 2, 0.0, 5.0) == pytest.approx(math.sqrt(2), rel=1e-12)
    assert crossing(lambda x: x * x - 2, 0.0, -5.0) == pytest.approx(-math.sqrt(2), rel=1e-12)
    assert crossing(lambda x: -1.0, 0.0, 5.0) == 5.0
    assert minimum(lambda x: (x - 0.3) ** 2, 0.0, 1.0) == pytest.approx(0.3, abs=1e-3)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -1.0, math.nan, math.inf])
def test_an_invalid_alpha_is_refused(alpha: float) -> None:
    with pytest.raises(InvalidDesign, match="alpha"):
        normal_rho(5_000, alpha)


@pytest.mark.parametrize("units", [0, -1, math.nan, math.inf])
def test_invalid_planned_units_are_refused(units: float) -> None:
    with pytest.raises(InvalidDesign, match="planned units"):
        normal_rho(units, 0.05)
    with pytest.raises(InvalidDesign, match="planned units"):
        concentration(units, 0.05)


def test_counts_and_probabilities_must_match() -> None:
    with pytest.raises(InvalidStatistics, match="2 counts for 3 probabilities"):
        dirichlet_log_e((1, 2), (0.2, 0.3, 0.5), 1.0)
