"""Quantiles on bounded sketches: published p-values, exact expected values, outward limits, merging."""

from __future__ import annotations

import itertools
import math
from functools import reduce
from operator import add

import numpy as np
import pytest

from drw.models.experiments.statistics.errors import InvalidDesign, InvalidStatistics
from drw.models.experiments.statistics.mixtures import p_value
from drw.models.experiments.statistics.quantiles import quantile_intervals, quantile_log_e
from drw.models.experiments.statistics.sketches import MAX_BUCKETS, Buckets, Sketch

ALPHA = 0.05
LATENCY = Buckets(0.01, 100.0, 0.01)


def sketch(values: np.ndarray, buckets: Buckets = LATENCY) -> Sketch:
    index = np.searchsorted(buckets.edges, values, side="left")
    return Sketch(len(values), tuple(np.bincount(index, minlength=len(buckets)).astype(float).tolist()))


def ranks(start: int) -> Sketch:
    """The integers from `start` to `start + 999`, each in its own bucket."""
    return Sketch(1_000, tuple(float(start <= i < start + 1_000) for i in range(1_200)))


# confseq (gostevehoward/confseq), test/uniform_boundaries_unittest.cpp, QuantileABTest.
@pytest.mark.parametrize(
    ("level", "offset", "expected"),
    [(0.5, 70, 0.814704), (0.5, 85, 0.0838055), (0.5, 100, 0.0054947), (0.9, 55, 0.0340463)],
)
def test_p_values_equal_published_ones(level: float, offset: int, expected: float) -> None:
    found = p_value(quantile_log_e(ranks(1), ranks(1 + offset), level, 200, ALPHA))
    assert found == pytest.approx(expected, abs=1e-6)
    assert p_value(quantile_log_e(ranks(1 + offset), ranks(1), level, 200, ALPHA)) == pytest.approx(found)


@pytest.mark.parametrize("chance", [0.3, 0.5, 0.9])
def test_equal_quantiles_have_an_expected_value_of_at_most_one(chance: float) -> None:
    """Values in two buckets: the median is in the first one with a chance of at least one half."""
    units, total = 6, 0.0
    for a, b in itertools.product(range(units + 1), repeat=2):
        ways = math.comb(units, a) * math.comb(units, b)
        likely = ways * chance ** (a + b) * (1 - chance) ** (2 * units - a - b)
        arms = [Sketch(units, (float(n), float(units - n))) for n in (a, b)]
        total += likely * math.exp(quantile_log_e(arms[0], arms[1], 0.5, 20, ALPHA))
    assert total <= 1


def test_limits_are_bucket_edges_outside_those_of_exact_values() -> None:
    random = np.random.default_rng(4)
    values = [np.exp(0.5 * random.standard_normal(4_000)) * factor for factor in (1.0, 1.3)]
    limits = []
    for accuracy in (0.005, 0.05, 0.2):
        buckets = Buckets(0.01, 100.0, accuracy)
        a, b = (sketch(v, buckets) for v in values)
        found = quantile_intervals(a, b, buckets, 0.9, 5_000, ALPHA)
        assert found is not None
        assert found.lift.lower <= 0.3 <= found.lift.upper
        assert found.difference.lower <= found.difference.estimate <= found.difference.upper
        limits.append(found.lift)
    assert limits[2].lower < limits[1].lower < limits[0].lower
    assert limits[2].upper > limits[1].upper > limits[0].upper
    assert limits[0].lower > 0
    assert limits[0].estimate == pytest.approx(np.quantile(values[1], 0.9) / np.quantile(values[0], 0.9) - 1, abs=0.01)


def test_the_interval_excludes_zero_only_if_the_e_value_reaches_one_over_alpha() -> None:
    random = np.random.default_rng(5)
    verdicts = []
    for factor in np.linspace(1.0, 1.5, 11):
        arms = [sketch(np.exp(random.standard_normal(2_000)) * f) for f in (1.0, factor)]
        found = quantile_intervals(arms[0], arms[1], LATENCY, 0.5, 5_000, ALPHA)
        assert found is not None
        excludes = not found.difference.lower <= 0 <= found.difference.upper
        rejects = quantile_log_e(arms[0], arms[1], 0.5, 5_000, ALPHA) >= -math.log(ALPHA)
        assert rejects or not excludes
        verdicts.append(excludes)
    assert verdicts[0] is False
    assert verdicts[-1] is True


def test_few_units_have_no_upper_limit_of_p99() -> None:
    arms = [sketch(np.array([0.5, 0.7, 1.1] * 10))] * 2
    found = quantile_intervals(arms[0], arms[1], LATENCY, 0.99, 5_000, ALPHA)
    assert found is not None
    assert found.difference.upper == found.lift.upper == math.inf
    assert found.difference.lower == -math.inf
    assert found.lift.lower == -1
    assert quantile_log_e(arms[0], arms[1], 0.99, 5_000, ALPHA) <= 0


def test_values_in_the_outer_buckets_have_an_open_interval() -> None:
    low, high = sketch(np.zeros(500)), sketch(np.full(500, 1e6))
    found = quantile_intervals(low, high, LATENCY, 0.5, 5_000, ALPHA)
    assert found is not None
    assert found.difference.lower == pytest.approx(100 - 0.01)
    assert found.difference.upper == math.inf
    same = quantile_intervals(high, high, LATENCY, 0.5, 5_000, ALPHA)
    assert same is not None
    assert (same.difference.lower, same.difference.upper) == (-math.inf, math.inf)
    assert same.difference.estimate == 0


def test_no_units_have_no_result() -> None:
    empty = Sketch.empty(LATENCY)
    assert quantile_log_e(empty, empty, 0.5, 5_000, ALPHA) == 0
    assert quantile_intervals(empty, sketch(np.ones(5)), LATENCY, 0.5, 5_000, ALPHA) is None


def test_each_unit_weighs_one_however_many_requests_it_makes() -> None:
    one = Sketch.of_unit(LATENCY, [1.0])
    many = Sketch.of_unit(LATENCY, [1.0] * 1_000)
    assert many.weights[LATENCY.index(1.0)] == pytest.approx(one.weights[LATENCY.index(1.0)])
    half = Sketch.of_unit(LATENCY, [1.0, 2.0])
    assert half.weights[LATENCY.index(2.0)] == 0.5


def test_merging_is_associative_and_equals_the_whole() -> None:
    random = np.random.default_rng(6)
    units = [Sketch.of_unit(LATENCY, random.lognormal(size=n).tolist()) for n in (1, 3, 7, 2, 5, 4)]
    whole = reduce(add, units, Sketch.empty(LATENCY))
    grouped = (units[0] + units[1]) + (units[2] + (units[3] + (units[4] + units[5])))
    assert whole.units == grouped.units == 6
    assert whole.weights == pytest.approx(grouped.weights)


def test_a_returning_unit_replaces_its_values() -> None:
    others = sketch(np.array([0.3, 0.9]))
    before, after = Sketch.of_unit(LATENCY, [1.0, 3.0, 3.0]), Sketch.of_unit(LATENCY, [1.0, 3.0, 3.0, 9.0])
    assert (others + before - before + after).weights == pytest.approx((others + after).weights)
    with pytest.raises(InvalidStatistics):
        others - after


def test_a_value_is_within_its_bucket() -> None:
    for value in (0.0, 0.001, 0.01, 0.010001, 1.0, 99.999, 100.0, 101.0, 1e300, *LATENCY.edges[::50]):
        index = LATENCY.index(value)
        assert LATENCY.lower_edge(index) <= value <= LATENCY.upper_edge(index)
        assert value > LATENCY.lower_edge(index) or index == 0
    widths = [b / a for a, b in itertools.pairwise(LATENCY.edges)]
    assert max(widths) <= 1.01 * (1 + 1e-12)
    assert len(LATENCY) == len(LATENCY.edges) + 1


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_invalid_values_are_refused(value: float) -> None:
    with pytest.raises(InvalidStatistics, match="finite and not negative"):
        Sketch.of_unit(LATENCY, [value])


def test_invalid_sketches_are_refused() -> None:
    for units, weights in [
        (2, (1.0, 0.5)),
        (1, (2.0, -1.0)),
        (1, (math.nan, 1.0)),
        (1, (math.inf, 0.0)),
        (1, ()),
        (-1, (0.0,)),
    ]:
        with pytest.raises(InvalidStatistics):
            Sketch(units, weights)
    with pytest.raises(InvalidStatistics, match="one or more values"):
        Sketch.of_unit(LATENCY, [])
    with pytest.raises(InvalidStatistics, match="do not merge"):
        Sketch.empty(LATENCY) + Sketch.empty(Buckets(0.1, 1.0))
    with pytest.raises(InvalidStatistics, match="different buckets"):
        quantile_log_e(Sketch(1, (1.0, 0.0)), Sketch(1, (1.0,)), 0.5, 5_000, ALPHA)
    with pytest.raises(InvalidStatistics, match="a sketch of 1 buckets"):
        quantile_intervals(Sketch(1, (1.0,)), Sketch(1, (1.0,)), LATENCY, 0.5, 5_000, ALPHA)


@pytest.mark.parametrize(
    ("low", "high", "accuracy"),
    [
        (0.0, 1.0, 0.01),
        (1.0, 1.0, 0.01),
        (1.0, math.inf, 0.01),
        (math.nan, 1.0, 0.01),
        (0.1, 1.0, 0.0),
        (0.1, 1.0, math.nan),
    ],
)
def test_invalid_buckets_are_refused(low: float, high: float, accuracy: float) -> None:
    with pytest.raises(InvalidDesign):
        Buckets(low, high, accuracy)


def test_the_number_of_buckets_is_bounded() -> None:
    with pytest.raises(InvalidDesign, match=f"the limit is {MAX_BUCKETS}"):
        Buckets(1e-9, 1e9, 0.001)
    assert len(Buckets(0.001, 1_000.0, 0.005)) <= MAX_BUCKETS


@pytest.mark.parametrize("level", [0.0, 1.0, math.nan, 99.0])
def test_an_invalid_level_is_refused(level: float) -> None:
    arm = sketch(np.ones(5))
    with pytest.raises(InvalidDesign, match="the quantile"):
        quantile_log_e(arm, arm, level, 5_000, ALPHA)
