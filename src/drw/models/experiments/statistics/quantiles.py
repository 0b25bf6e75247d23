"""Exact confidence sequences and e-values of quantiles, from histograms with fixed buckets.

Each unit has the same weight in the distribution, however many requests it makes. A unit's share of values at or below
the quantile lies between 0 and 1, and its expected value is the quantile's level. The beta-binomial mixture is valid
for such shares, so dependent requests of one unit do no harm. The order within a bucket is not recorded: limits widen
outward to its edges, and a hypothesis is rejected only if every order within the bucket contradicts it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from drw.models.experiments.statistics.errors import InvalidStatistics, checked_probability
from drw.models.experiments.statistics.mixtures import concentration, dirichlet_log_e, minimum
from drw.models.experiments.statistics.sequences import Interval
from drw.models.experiments.statistics.sketches import Buckets, Sketch


@dataclass(frozen=True, slots=True)
class QuantileIntervals:
    """Absolute and relative difference of two quantiles, valid together."""

    difference: Interval
    lift: Interval


@lru_cache(maxsize=4096)
def _least_suspect(units: int, level: float, prior: float) -> float:
    """Return the weight at or below the quantile that contradicts the level least.

    The log e-value is convex in the weight. Its derivative is zero near units * level + 1/2 - level, by
    digamma(x) = log(x - 1/2) + O(1/x^2).
    """
    near = units * level + 0.5 - level
    low, high = max(near - 0.5, 0.0), min(near + 0.5, float(units))
    return minimum(lambda below: _level_log_e(units, below, level, prior), low, high)


def _level_log_e(units: int, below: float, level: float, prior: float) -> float:
    return dirichlet_log_e((below, max(units - below, 0.0)), (level, 1 - level), prior)


class _Arm:
    """The log e-values of "the quantile lies in this bucket" of one arm; they fall to a minimum, then rise."""

    def __init__(self, sketch: Sketch, level: float, prior: float) -> None:
        self._units = sketch.units
        self._level = level
        self._prior = prior
        self._ends = list(accumulate(sketch.weights))
        self._known: dict[int, float] = {}
        self._best = _least_suspect(sketch.units, level, prior)
        self.middle = min(bisect_left(self._ends, self._best), len(self._ends) - 1)

    def log_e(self, bucket: int) -> float:
        """Return the smallest log e-value over all orders of the values within a bucket."""
        if bucket not in self._known:
            start = self._ends[bucket - 1] if bucket else 0.0
            below = min(max(self._best, start), self._ends[bucket], self._units)
            self._known[bucket] = _level_log_e(self._units, max(below, 0.0), self._level, self._prior)
        return self._known[bucket]

    def accepted(self, threshold: float) -> tuple[int, int]:
        """Return the first and the last bucket with a log e-value below a threshold above the minimum."""
        size = len(self._ends)
        first = bisect_left(range(self.middle), True, key=lambda bucket: self.log_e(bucket) < threshold)
        beyond = range(self.middle + 1, size)
        last = self.middle + bisect_left(beyond, True, key=lambda bucket: self.log_e(bucket) >= threshold)
        return first, last

    def estimate(self, buckets: Buckets) -> float:
        """Return the geometric middle of the bucket of the sample quantile."""
        bucket = min(bisect_left(self._ends, self._level * self._units), len(self._ends) - 1)
        low, high = buckets.lower_edge(bucket), buckets.upper_edge(bucket)
        if math.isinf(high):
            return low
        return math.sqrt(low * high) if low else high


def _arms(
    control: Sketch, treatment: Sketch, level: float, planned_units: int, alpha: float
) -> tuple[_Arm, _Arm] | None:
    checked_probability("the quantile", level)
    if len(control.weights) != len(treatment.weights):
        raise InvalidStatistics("the sketches of two arms have different buckets")
    if not (control.units and treatment.units):
        return None
    prior = concentration(planned_units / 2, alpha)
    return _Arm(control, level, prior), _Arm(treatment, level, prior)


def quantile_log_e(control: Sketch, treatment: Sketch, level: float, planned_units: int, alpha: float) -> float:
    """Return the log e-value of "both arms have the same quantile".

    For each common quantile the product of both arms' e-processes is an e-process; the smallest product is one for the
    composite hypothesis. It lies between the sample quantiles of both arms. It is exact at every sample size, for any
    allocation.

    Source: Howard and Ramdas, Bernoulli 28 (2022), section 5.
    """
    arms = _arms(control, treatment, level, planned_units, alpha)
    if arms is None:
        return 0.0
    a, b = arms
    ends = sorted((a.middle, b.middle))
    return min(a.log_e(bucket) + b.log_e(bucket) for bucket in range(ends[0], ends[1] + 1))


def quantile_intervals(
    control: Sketch, treatment: Sketch, buckets: Buckets, level: float, planned_units: int, alpha: float
) -> QuantileIntervals | None:
    """Return the difference of two quantiles with limits that are exact at every sample size.

    A pair of buckets is in the confidence set unless the product of its e-values reaches 1/alpha; the limits are the
    extreme edges over the set. A limit is infinite if the set reaches the last bucket. None without a unit in each arm.
    """
    if len(control.weights) != len(buckets):
        raise InvalidStatistics(f"a sketch of {len(control.weights)} buckets for {len(buckets)} buckets")
    arms = _arms(control, treatment, level, planned_units, alpha)
    if arms is None:
        return None
    a, b = arms
    differences, ratios = [], []
    threshold = -math.log(alpha)
    least = b.log_e(b.middle)
    first, last = a.accepted(threshold - least)
    for bucket in range(first, last + 1):
        low, high = b.accepted(threshold - a.log_e(bucket))
        below = (buckets.lower_edge(low), buckets.upper_edge(bucket))
        above = (buckets.upper_edge(high), buckets.lower_edge(bucket))
        differences += [below[0] - below[1], above[0] - above[1]]
        ratios += [below[0] / below[1], above[0] / above[1] if above[1] else math.inf]
    base, value = a.estimate(buckets), b.estimate(buckets)
    return QuantileIntervals(
        Interval(value - base, min(differences), max(differences)),
        Interval(value / base - 1, min(ratios) - 1, max(ratios) - 1),
    )
