"""Fixed-horizon z-test, and estimates of the units that an experiment needs."""

from __future__ import annotations

import math
from statistics import NormalDist

from drw.models.experiments.statistics.contrasts import Estimate
from drw.models.experiments.statistics.errors import InvalidDesign, checked_probability
from drw.models.experiments.statistics.mixtures import normal_bound, normal_rho
from drw.models.experiments.statistics.sequences import Interval

NORMAL = NormalDist()
MAX_UNITS_NEEDED = 2**40


def z_test_p_value(estimate: Estimate) -> float:
    """Return the two-sided p-value of "the value is zero". It is valid at one sample size that is fixed in advance."""
    return math.erfc(abs(estimate.value) / math.sqrt(2 * estimate.variance))


def z_test_interval(estimate: Estimate, alpha: float) -> Interval:
    """Return a confidence interval. It covers at one sample size that is fixed in advance."""
    radius = NORMAL.inv_cdf(1 - alpha / 2) * math.sqrt(estimate.variance)
    return Interval(estimate.value, estimate.value - radius, estimate.value + radius)


def proportion_deviation(rate: float) -> float:
    """Return the standard deviation of an event with a rate, for `units_needed`."""
    return math.sqrt(checked_probability("the rate", rate) * (1 - rate))


def fixed_units_needed(deviation: float, effect: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Return the units an arm at which one fixed-horizon z-test detects an absolute effect with this power.

    Source: 2 (z_{1-alpha/2} + z_power)^2 deviation^2 / effect^2, for equal arms.
    """
    _check(deviation, effect, alpha, power)
    z = NORMAL.inv_cdf(1 - alpha / 2) + NORMAL.inv_cdf(power)
    return max(math.ceil(2 * (z * deviation / effect) ** 2), 1)


def units_needed(
    deviation: float, effect: float, *, alpha: float = 0.05, power: float = 0.8, planned_units: int = 5000
) -> int:
    """Return the units an arm at which a confidence sequence excludes zero with this power, for equal arms.

    `deviation` is the standard deviation between units, after CUPED if it is used: sqrt(1 - r^2) of the original one
    for a correlation r. The estimate is cautious, since it ignores that an earlier look may have detected the effect;
    half of the experiments end far earlier. `planned_units` counts both arms, as in `Design`.

    Raises:
        InvalidDesign: an argument is out of range, or more than 2**40 units would be needed.
    """
    _check(deviation, effect, alpha, power)
    rho = normal_rho(planned_units, alpha)
    extra = NORMAL.inv_cdf(power)

    def detects(units: int) -> bool:
        z = abs(effect) / deviation * math.sqrt(units / 2)
        return z >= normal_bound(2 * units, rho, alpha) + extra

    high = 1
    while not detects(high):
        high *= 2
        if high > MAX_UNITS_NEEDED:
            raise InvalidDesign(
                f"an effect of {effect!r} at a standard deviation of {deviation!r} takes too many units"
            )
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if detects(middle) else (middle, high)
    return high


def _check(deviation: float, effect: float, alpha: float, power: float) -> None:
    checked_probability("alpha", alpha)
    checked_probability("power", power)
    if not 0 < deviation < math.inf:
        raise InvalidDesign(f"the standard deviation must be positive and finite, not {deviation!r}")
    if not 0 < abs(effect) < math.inf:
        raise InvalidDesign(f"the effect must be finite and not zero, not {effect!r}")
