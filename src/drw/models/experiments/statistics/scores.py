"""Exact confidence sequences and e-values of bounded scores, from their counts and sums."""

from __future__ import annotations

import math
from dataclasses import dataclass

from drw.models.experiments.statistics.errors import InvalidDesign, InvalidStatistics
from drw.models.experiments.statistics.mixtures import concentration, crossing, dirichlet_log_e, minimum
from drw.models.experiments.statistics.moments import Moments
from drw.models.experiments.statistics.sequences import Interval

EDGE = 1e-9
"""Nearest to 0 and 1 that a mean is tested."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The smallest and the largest score that a unit can have."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InvalidDesign(f"bounds of a score must be finite and increasing, not {self.low!r} and {self.high!r}")

    def totals(self, moments: Moments) -> tuple[float, float]:
        """Return the scores' sum on the scale from 0 to 1, and the sum of their complements.

        Raises:
            InvalidStatistics: a score is out of bounds, or the moments have several columns.
        """
        if len(moments.sums) != 1:
            raise InvalidStatistics(f"a score has one column, not {len(moments.sums)}")
        if moments.units and (moments.lows[0] < self.low or moments.highs[0] > self.high):
            raise InvalidStatistics(
                f"scores between {moments.lows[0]!r} and {moments.highs[0]!r} exceed the bounds "
                f"{self.low!r} and {self.high!r}"
            )
        total = (moments.sums[0] - self.low * moments.units) / (self.high - self.low)
        total = min(max(total, 0.0), float(moments.units))
        return total, moments.units - total


def _log_e(totals: tuple[float, float], mean: float, prior: float) -> float:
    """Return the log e-value of "the mean is this", convex in the mean.

    A score between 0 and 1 counts as that fraction of a success, which the beta-binomial mixture permits.
    """
    mean = min(max(mean, EDGE), 1 - EDGE)
    return dirichlet_log_e(totals, (mean, 1 - mean), prior)


class _Pair:
    """Log e-values of differences of two mean scores, on the scale from 0 to 1."""

    def __init__(self, control: Moments, treatment: Moments, bounds: Bounds, prior: float) -> None:
        self._control = bounds.totals(control)
        self._treatment = bounds.totals(treatment)
        self._base = self._control[0] / control.units
        self._value = self._treatment[0] / treatment.units
        self._prior = prior

    @property
    def estimate(self) -> float:
        """The difference of the sample means."""
        return self._value - self._base

    def log_e(self, difference: float) -> float:
        """Return the smallest log e-value of "the means differ by this" over all means of control."""

        def both(mean: float) -> float:
            control = _log_e(self._control, mean, self._prior)
            return control + _log_e(self._treatment, mean + difference, self._prior)

        low, high = max(0.0, -difference), min(1.0, 1 - difference)
        ends = sorted(min(max(end, low), high) for end in (self._base, self._value - difference))
        return both(minimum(both, *ends))


def score_log_e(control: Moments, treatment: Moments, bounds: Bounds, planned_units: int, alpha: float) -> float:
    """Return the log e-value of "both arms have the same mean score".

    For each common mean the product of both arms' e-processes is an e-process; the smallest product over all common
    means is one for the composite hypothesis. It is exact at every sample size, for any allocation.

    Source: beta-binomial mixture for bounded values, Howard et al., Probab. Surveys 17 (2020); the smallest product
    over the shared parameter, Howard and Ramdas, Bernoulli 28 (2022), section 5.
    """
    if not (control.units and treatment.units):
        return 0.0
    return _Pair(control, treatment, bounds, concentration(planned_units / 2, alpha)).log_e(0.0)


def score_interval(
    control: Moments, treatment: Moments, bounds: Bounds, planned_units: int, alpha: float
) -> Interval | None:
    """Return the difference of two mean scores with limits that are exact at every sample size.

    The limits enclose the differences with an e-value below 1/alpha. None without a unit in each arm.
    """
    if not (control.units and treatment.units):
        return None
    pair = _Pair(control, treatment, bounds, concentration(planned_units / 2, alpha))

    def excess(difference: float) -> float:
        return pair.log_e(difference) + math.log(alpha)

    width = bounds.high - bounds.low
    low, high = (crossing(excess, pair.estimate, end) for end in (-1.0, 1.0))
    return Interval(pair.estimate * width, low * width, high * width)
