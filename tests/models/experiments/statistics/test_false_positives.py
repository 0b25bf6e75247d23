"""A/A tests that are looked at forty times, with fixed seeds: rejections stay within chance of alpha."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from bench.experiments import false_positives, populations
from bench.experiments.false_positives import Compare, cuped, events, lift_beyond, scores
from bench.experiments.simulation import Draw, Size

from drw.models.experiments.statistics.contrasts import compare_means, compare_ratios
from drw.models.experiments.statistics.moments import Moments

SIZE = Size(tests=100, looks=40, step=100)


def most(tests: int, alpha: float) -> int:
    """Return the rejections that a rate of alpha exceeds in at most one of a thousand such tests."""
    total = 0.0
    for count in range(tests + 1):
        total += math.comb(tests, count) * alpha**count * (1 - alpha) ** (tests - count)
        if total >= 0.999:
            return count
    return tests


@pytest.mark.parametrize(
    ("draw", "compare"),
    [
        (populations.normal(), compare_means),
        (populations.lognormal(1.5, cap=32.8), compare_means),
        (populations.pareto(1.5), compare_means),
        (populations.other_shape(1.5, cap=32.8), compare_means),
        (populations.covariate(0.7), cuped),
        (populations.clustered(0.05), compare_ratios),
    ],
)
def test_false_positives_of_means_and_ratios_are_at_most_alpha(draw: Draw, compare: Compare) -> None:
    row = false_positives.asymptotic("", draw, SIZE, 51, compare)
    assert row.rejected <= most(SIZE.tests, 0.05)
    assert row.naive is not None
    assert row.naive > most(SIZE.tests, 0.05)


def test_false_positives_of_lifts_are_at_most_alpha() -> None:
    row = false_positives.asymptotic("", populations.lognormal(0.5, 0.1), SIZE, 52, compare_means, lift_beyond(0.1))
    assert row.rejected <= most(SIZE.tests, 0.05)
    assert row.blocked < 0.5


@pytest.mark.parametrize(("draw", "log_e"), [(populations.event(0.05), events), (populations.score(0.7, 8), scores)])
def test_false_positives_of_proportions_and_scores_are_at_most_alpha(
    draw: Draw, log_e: Callable[[Moments, Moments], float]
) -> None:
    assert false_positives.exact("", draw, SIZE, 53, log_e).rejected <= most(SIZE.tests, 0.05)


@pytest.mark.parametrize(
    ("draw", "level"),
    [(populations.lognormal(1.0), 0.5), (populations.pareto(1.5), 0.99), (populations.clustered_latency(5), 0.9)],
)
def test_false_positives_of_quantiles_are_at_most_alpha(draw: Draw, level: float) -> None:
    size = Size(tests=60, looks=40, step=50)
    assert false_positives.quantile("", draw, size, 54, level).rejected <= most(size.tests, 0.05)


def test_false_positives_of_sample_ratios_are_at_most_alpha() -> None:
    size = Size(tests=1_000, looks=40, step=100)
    assert false_positives.sample_ratio(size, 55, (50, 30, 20)).rejected <= most(size.tests, 0.001)
