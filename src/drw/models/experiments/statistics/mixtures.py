"""Closed-form mixture martingales: normal, beta-binomial, Dirichlet-multinomial.

Each function returns the logarithm of an e-process. Under the null hypothesis an e-process starts at 1 and its expected
value is at most 1 at every stopping time, so it ever exceeds 1/alpha with a probability of at most alpha (Ville's
inequality). Inverting it gives a confidence sequence: an interval that covers at all sample sizes at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from drw.models.experiments.statistics.errors import InvalidDesign, InvalidStatistics, checked_probability

HALVINGS = 50
"""Of a bisection: they locate a crossing to 1e-15 of the range."""
SECTIONS = 16
"""Of a golden-section search: they locate a minimum to 5e-4 of the range, and its value to the square of that."""
LARGEST_LOG = 700.0
"""`exp` of more overflows a double."""


def _tuning(alpha: float) -> float:
    log = -2 * math.log(checked_probability("alpha", alpha))
    return log + math.log1p(log)


def normal_rho(planned_units: float, alpha: float) -> float:
    """Return the mixture's scale that makes the confidence sequence narrowest at a number of units.

    Source: Waudby-Smith et al., arXiv 2103.06476v7, eq. 161.
    """
    if not 0 < planned_units < math.inf:
        raise InvalidDesign(f"planned units must be positive and finite, not {planned_units!r}")
    return math.sqrt(_tuning(alpha) / planned_units)


def normal_log_e(squared_z: float, units: float, rho: float) -> float:
    """Return the log e-value of a squared z-score, for a standard normal null and the mixture N(0, rho^2).

    The drift of the standardised sum is mixed over a normal distribution:
    exp(rho^2 n z^2 / (2 (n rho^2 + 1))) / sqrt(n rho^2 + 1).

    Source: Robbins, Ann. Math. Stat. 41 (1970); Waudby-Smith et al., arXiv 2103.06476v7, eq. 155.
    """
    spread = units * rho * rho
    return spread * squared_z / (2 * (spread + 1)) - math.log1p(spread) / 2


def normal_bound(units: float, rho: float, alpha: float) -> float:
    """Return the z-score at which `normal_log_e` reaches log(1/alpha).

    Source: Waudby-Smith et al., arXiv 2103.06476v7, eq. 9, divided by the standard error.
    """
    spread = units * rho * rho
    return math.sqrt(2 * (spread + 1) / spread * (math.log1p(spread) / 2 - math.log(alpha)))


def concentration(planned_units: float, alpha: float) -> float:
    """Return the sum of a Dirichlet prior's parameters that is best at a number of observations.

    Source: Howard and Ramdas, "Sequential estimation of quantiles", Bernoulli 28 (2022), from the optimal normal
    mixture of Howard et al., Ann. Stat. 49 (2021), proposition 3, with the variance of one observation subtracted.
    """
    if not 0 < planned_units < math.inf:
        raise InvalidDesign(f"planned units must be positive and finite, not {planned_units!r}")
    return max(planned_units / _tuning(alpha) - 1, 1e-3)


def dirichlet_log_e(counts: Sequence[float], probabilities: Sequence[float], total: float) -> float:
    """Return the log e-value of counts for the null that each observation has these probabilities.

    The alternative is a Dirichlet distribution with mean `probabilities` whose parameters sum to `total`:
    B(total p + counts) / (B(total p) prod p_i^counts_i). With two categories it is the beta-binomial mixture, and it
    also holds for fractional counts, where each observation divides a weight of 1 among the categories.

    Source: Lindon and Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022, eq. 3; fractional
    counts are sub-Bernoulli: Howard et al., Probab. Surveys 17 (2020), section 3.
    """
    if len(counts) != len(probabilities):
        raise InvalidStatistics(f"{len(counts)} counts for {len(probabilities)} probabilities")
    observed = math.fsum(counts)
    value = math.lgamma(total) - math.lgamma(total + observed)
    for count, probability in zip(counts, probabilities, strict=True):
        prior = total * probability
        value += math.lgamma(prior + count) - math.lgamma(prior) - count * math.log(probability)
    return value


def e_value(log_e: float) -> float:
    """Return exp(log_e) as a finite number."""
    return math.exp(min(log_e, LARGEST_LOG))


def p_value(log_e: float) -> float:
    """Return the always-valid p-value of an e-value: min(1, 1/e)."""
    return math.exp(-max(log_e, 0.0))


def crossing(function: Callable[[float], float], inside: float, outside: float) -> float:
    """Return the point nearest to `outside` at which a function is known to be negative, by bisection.

    The function is negative at `inside`. If it is negative at `outside` too, that is the answer.
    """
    if function(outside) < 0:
        return outside
    for _ in range(HALVINGS):
        middle = (inside + outside) / 2
        if middle in (inside, outside):
            break
        if function(middle) < 0:
            inside = middle
        else:
            outside = middle
    return outside


def minimum(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a convex function is smallest between two points, by golden-section search."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(SECTIONS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return (low + high) / 2
