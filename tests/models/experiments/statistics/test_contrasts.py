"""Differences of means and ratios: the delta method and CUPED against direct computation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from drw.models.experiments.statistics.contrasts import (
    Contrast,
    NoResult,
    compare_means,
    compare_ratios,
)
from drw.models.experiments.statistics.errors import InvalidStatistics
from drw.models.experiments.statistics.moments import Moments


def arms(seed: int, columns: int, units: tuple[int, int] = (800, 700)) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    mixing = random.uniform(0.2, 1.0, (columns, columns))
    return [random.gamma(3.0, 1.0, (n, columns)) @ mixing + 1 for n in units]


def moments(data: np.ndarray) -> Moments:
    return Moments.of_units(data.tolist())


def contrast(found: Contrast | NoResult) -> Contrast:
    assert isinstance(found, Contrast), found
    return found


def test_difference_of_means_has_the_variance_of_welch() -> None:
    a, b = arms(1, 1)
    found = contrast(compare_means(moments(a), moments(b)))
    assert found.difference.value == pytest.approx(b.mean() - a.mean())
    assert found.difference.variance == pytest.approx(a.var(ddof=1) / 800 + b.var(ddof=1) / 700)
    assert found.units == 1500


def test_difference_of_ratios_has_the_variance_of_the_linearised_values() -> None:
    a, b = arms(2, 2)
    found = contrast(compare_ratios(moments(a), moments(b)))
    ratios = [x[:, 0].sum() / x[:, 1].sum() for x in (a, b)]
    linear = [(x[:, 0] - ratio * x[:, 1]) / x[:, 1].mean() for x, ratio in zip((a, b), ratios, strict=True)]
    assert found.difference.value == pytest.approx(ratios[1] - ratios[0])
    assert found.difference.variance == pytest.approx(sum(z.var(ddof=1) / len(z) for z in linear))


def test_a_ratio_with_a_constant_denominator_is_a_mean() -> None:
    a, b = (np.column_stack([x, np.full(len(x), 2.0)]) for x in arms(3, 1))
    ratio = contrast(compare_ratios(moments(a), moments(b))).difference
    mean = contrast(compare_means(moments(a[:, :1] / 2), moments(b[:, :1] / 2))).difference
    assert (ratio.value, ratio.variance) == pytest.approx((mean.value, mean.variance))


def test_cuped_equals_a_regression_on_the_covariate_pooled_over_arms() -> None:
    a, b = arms(4, 2)
    centred = [x - x.mean(axis=0) for x in (a, b)]
    both = np.concatenate(centred)
    theta = (both[:, 0] @ both[:, 1]) / (both[:, 1] @ both[:, 1])
    adjusted = [x[:, 0] - theta * x[:, 1] for x in (a, b)]
    found = contrast(compare_means(moments(a), moments(b), covariate=True)).difference
    assert found.value == pytest.approx(adjusted[1].mean() - adjusted[0].mean())
    assert found.variance == pytest.approx(sum(z.var(ddof=1) / len(z) for z in adjusted))
    plain = contrast(compare_means(moments(a[:, :1]), moments(b[:, :1]))).difference
    assert found.variance < plain.variance


def test_cuped_of_a_ratio_adjusts_the_linearised_values() -> None:
    a, b = arms(5, 4)
    linear = []
    for x in (a, b):
        now, before = x[:, 0].sum() / x[:, 1].sum(), x[:, 2].sum() / x[:, 3].sum()
        linear.append(
            np.column_stack(
                [
                    (x[:, 0] - now * x[:, 1]) / x[:, 1].mean() + now,
                    (x[:, 2] - before * x[:, 3]) / x[:, 3].mean() + before,
                ]
            )
        )
    found = contrast(compare_ratios(moments(a), moments(b), covariate=True)).difference
    expected = contrast(compare_means(moments(linear[0]), moments(linear[1]), covariate=True)).difference
    assert (found.value, found.variance) == pytest.approx((expected.value, expected.variance))


def test_a_constant_covariate_changes_nothing() -> None:
    a, b = arms(6, 1)
    with_constant = [np.column_stack([x, np.full(len(x), 3.0)]) for x in (a, b)]
    found = contrast(compare_means(*map(moments, with_constant), covariate=True))
    plain = contrast(compare_means(moments(a), moments(b)))
    assert found.difference == plain.difference
    assert found.lift == plain.lift


def test_lift_has_the_delta_method_variance() -> None:
    a, b = arms(7, 1)
    lift = contrast(compare_means(moments(a), moments(b))).lift
    assert lift is not None
    base, value = a.mean(), b.mean()
    assert lift.value == pytest.approx(value / base - 1)
    expected = b.var(ddof=1) / 700 / base**2 + value**2 * a.var(ddof=1) / 800 / base**4
    assert lift.variance == pytest.approx(expected)


@pytest.mark.parametrize("compare", [compare_means, compare_ratios])
def test_lift_with_cuped_has_the_variance_of_a_numerical_derivative(
    compare: Callable[..., Contrast | NoResult],
) -> None:
    columns = 2 if compare is compare_means else 4
    a, b = arms(8, columns, (400, 500))
    found = contrast(compare(moments(a), moments(b), covariate=True))
    assert found.lift is not None
    theta = found._theta

    def lift(x: np.ndarray, y: np.ndarray) -> float:
        if columns == 2:
            now, before = (x[0], y[0]), (x[1], y[1])
        else:
            now, before = (x[0] / x[1], y[0] / y[1]), (x[2] / x[3], y[2] / y[3])
        pooled = (400 * before[0] + 500 * before[1]) / 900
        return (now[1] - theta * (before[1] - pooled)) / (now[0] - theta * (before[0] - pooled)) - 1

    means = a.mean(axis=0), b.mean(axis=0)
    assert found.lift.value == pytest.approx(lift(*means))
    variance = 0.0
    for arm, data in enumerate((a, b)):
        gradient = np.zeros(columns)
        for i in range(columns):
            moved = [[m.copy() for m in means] for _ in range(2)]
            moved[0][arm][i] += 1e-6
            moved[1][arm][i] -= 1e-6
            gradient[i] = (lift(*moved[0]) - lift(*moved[1])) / 2e-6
        variance += float(gradient @ np.cov(data, rowvar=False) @ gradient) / len(data)
    assert found.lift.variance == pytest.approx(variance, rel=1e-5)


def test_there_is_no_lift_over_a_control_near_zero() -> None:
    random = np.random.default_rng(9)
    a, b = random.standard_normal((500, 1)), random.standard_normal((500, 1))
    found = contrast(compare_means(moments(a), moments(b)))
    assert found.lift is None


def reason(found: Contrast | NoResult) -> str:
    assert isinstance(found, NoResult), found
    return found.reason


def test_each_missing_result_has_a_reason() -> None:
    a, b = (moments(x) for x in arms(10, 1))
    assert "fewer than two units" in reason(compare_means(Moments.empty(1), b))
    assert "fewer than two units" in reason(compare_means(a, Moments.of_unit(3.0)))
    same = Moments.of_units([(2.5,)] * 600)
    assert "the same value" in reason(compare_means(a, same))
    assert "the same value" in reason(compare_means(same, same))
    outlier = moments(np.concatenate([np.ones(600), np.zeros(600), [500.0]])[:, None])
    assert "wait for more units, or cap the metric" in reason(compare_means(a, outlier))
    no_requests = Moments.of_units([(0.0, 0.0)] * 600)
    some = Moments.of_units([(1.0, 2.0), (0.0, 3.0)] * 300)
    assert "denominator is not clear of zero" in reason(compare_ratios(some, no_requests))
    before = Moments.of_units([(1.0, 2.0, 0.0, 0.0), (0.0, 3.0, 0.0, 0.0)] * 300)
    assert "covariate: the mean of the denominator" in reason(compare_ratios(before, before, covariate=True))


def test_a_rare_event_waits_for_about_ten_events() -> None:
    def arm(events: int) -> Moments:
        return Moments(5_000, (float(events),), (float(events),), (0.0,), (1.0,))

    assert isinstance(compare_means(arm(9), arm(20)), NoResult)
    assert isinstance(compare_means(arm(11), arm(20)), Contrast)


def test_columns_must_match_the_metric() -> None:
    with pytest.raises(InvalidStatistics, match="2 columns are needed, not 1"):
        compare_ratios(Moments.empty(1), Moments.empty(1))
    with pytest.raises(InvalidStatistics, match="1 columns are needed, not 2"):
        compare_means(Moments.empty(2), Moments.empty(2))


def test_values_near_the_limits_of_doubles_give_no_nan() -> None:
    a = moments(np.array([[1e150], [2e150]] * 300))
    found = compare_means(a, a)
    assert isinstance(found, Contrast)
    assert found.difference.value == 0
    assert math.isfinite(found.difference.variance)
