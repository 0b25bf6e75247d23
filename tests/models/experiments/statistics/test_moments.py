"""Moments: merging, replacing a unit, rounding, statistics that no data can have."""

from __future__ import annotations

import math
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drw.models.experiments.statistics.errors import InvalidStatistics
from drw.models.experiments.statistics.moments import Moments
from support.json_types import Json

values = st.floats(-1e6, 1e6, allow_nan=False, width=32)
rows = st.lists(st.tuples(values, values), min_size=1, max_size=12)


def close(left: Moments, right: Moments) -> bool:
    scale = 1e-9 * max(map(abs, left.products), default=0) + 1e-6
    same = left.units == right.units and left.lows == right.lows and left.highs == right.highs
    pairs = zip(left.sums + left.products, right.sums + right.products, strict=True)
    return same and all(math.isclose(a, b, rel_tol=1e-9, abs_tol=scale) for a, b in pairs)


@settings(max_examples=60, derandomize=True, database=None)
@given(rows, rows, rows)
def test_merging_is_associative_commutative_and_equals_the_whole(
    a: list[tuple[float, float]], b: list[tuple[float, float]], c: list[tuple[float, float]]
) -> None:
    x, y, z = (Moments.of_units(each) for each in (a, b, c))
    whole = Moments.of_units([*a, *b, *c])
    assert close((x + y) + z, whole)
    assert close(x + (y + z), whole)
    assert close(z + y + x, whole)
    assert close(reduce(add, (Moments.of_unit(*row) for row in [*a, *b, *c])), whole)


@settings(max_examples=40, derandomize=True, database=None)
@given(rows)
def test_no_units_are_neutral(a: list[tuple[float, float]]) -> None:
    assert Moments.of_units(a) + Moments.empty(2) == Moments.of_units(a)


def test_covariances_equal_those_of_numpy() -> None:
    random = np.random.default_rng(1)
    data = random.gamma(2.0, 3.0, (500, 3)) @ np.array([[1, 0.5, 0], [0, 1, 0.3], [0, 0, 1]])
    moments = Moments.of_units(data.tolist())
    expected = np.cov(data, rowvar=False)
    for i in range(3):
        assert moments.mean(i) == pytest.approx(data[:, i].mean())
        for j in range(3):
            assert moments.covariance(i, j) == pytest.approx(expected[i, j])
    gradient = (1.0, -2.0, 0.0)
    assert moments.variance_of(gradient) == pytest.approx((data @ gradient).var(ddof=1))
    squares = (data - data.mean(axis=0)) ** 2
    shares = squares.max(axis=0) / squares.sum(axis=0)
    assert moments.largest_share(gradient) == pytest.approx(shares[:2].max(), rel=0.01)


def test_a_returning_unit_replaces_its_values() -> None:
    arm = Moments.of_units([(1.0, 4.0), (0.0, 2.0)])
    later = arm - Moments.of_unit(0.0, 2.0) + Moments.of_unit(3.0, 9.0)
    assert later == Moments(2, (4.0, 13.0), (10.0, 31.0, 97.0), (0.0, 2.0), (3.0, 9.0))


def test_removing_all_units_leaves_none() -> None:
    arm = Moments.of_units([(0.1,), (0.2,), (0.3,)])
    assert arm - arm == Moments.empty(1)


def test_a_variance_below_the_rounding_of_the_sums_is_zero() -> None:
    assert Moments.of_units([(1e9 + i * 1e-6,) for i in range(10)]).covariance(0, 0) == 0
    assert Moments.of_units([(7.3,)] * 1000).variance_of((1.0,)) == 0


def test_huge_counts_are_exact() -> None:
    moments = Moments(2**53, (2.0**52,), (2.0**52,), (0.0,), (1.0,))
    assert moments.mean(0) == 0.5
    assert moments.covariance(0, 0) == pytest.approx(0.25)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(InvalidStatistics, match="must be finite"):
        Moments.of_unit(1.0, value)
    with pytest.raises(InvalidStatistics, match="must be finite"):
        Moments.of_units([(1.0,), (value,)])
    with pytest.raises(InvalidStatistics, match="must be finite"):
        Moments(1, (value,), (1.0,), (0.0,), (1.0,))


@pytest.mark.parametrize(
    ("units", "sums", "products", "lows", "highs", "message"),
    [
        (-1, (0.0,), (0.0,), (0.0,), (0.0,), "units must be between 0 and 2"),
        (2**53 + 1, (0.0,), (0.0,), (0.0,), (0.0,), "units must be between 0 and 2"),
        (True, (0.0,), (0.0,), (0.0,), (0.0,), "must be an integer"),
        (2.0, (0.0,), (0.0,), (0.0,), (0.0,), "must be an integer"),
        (0, (1.0,), (1.0,), (0.0,), (1.0,), "0 units"),
        (2, (2.0,), (1.0,), (0.0,), (2.0,), "sum of squares of 1.0 is too small"),
        (2, (2.0,), (-1.0,), (0.0,), (2.0,), "too small"),
        (2, (2.0,), (4.0,), (3.0,), (2.0,), "lies between"),
        (2, (2.0,), (4.0,), (math.nan,), (2.0,), "lies between"),
        (2, (2.0, 1.0), (4.0, 1.0), (0.0, 0.0), (2.0, 1.0), "2 sums need 3 products"),
        (2, (), (), (), (), "0 sums"),
        (2, (2.0,), (4.0,), (), (2.0,), "as many lows"),
    ],
)
def test_statistics_that_no_data_can_have_are_refused(
    units: Json,
    sums: tuple[float, ...],
    products: tuple[float, ...],
    lows: tuple[float, ...],
    highs: tuple[float, ...],
    message: str,
) -> None:
    with pytest.raises(InvalidStatistics, match=message):
        Moments(units, sums, products, lows, highs)


def test_moments_of_different_columns_do_not_merge() -> None:
    with pytest.raises(InvalidStatistics, match="1 and 2 columns"):
        Moments.empty(1) + Moments.empty(2)
    with pytest.raises(InvalidStatistics, match="same length"):
        Moments.of_units([(1.0,), (1.0, 2.0)])
    with pytest.raises(InvalidStatistics, match="one or more rows"):
        Moments.of_units([])
