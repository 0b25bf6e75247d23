"""Asymptotic confidence sequences and e-values of an estimate that is nearly normal."""

from __future__ import annotations

import math
from dataclasses import dataclass

from drw.models.experiments.statistics.contrasts import Estimate
from drw.models.experiments.statistics.mixtures import normal_bound, normal_log_e, normal_rho


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence limits; a limit is infinite where the data sets none."""

    estimate: float
    lower: float
    upper: float


def asymptotic_interval(estimate: Estimate, units: int, planned_units: int, alpha: float) -> Interval:
    """Return an interval that covers at all sample sizes at once, asymptotically.

    The arguments are an estimate with its squared standard error, the units of both arms, and the units at which the
    interval is to be narrowest.

    Source: Waudby-Smith et al., arXiv 2103.06476v7, eq. 9, with sigma^2 = units times the squared standard error.
    """
    radius = math.sqrt(estimate.variance) * normal_bound(units, normal_rho(planned_units, alpha), alpha)
    return Interval(estimate.value, estimate.value - radius, estimate.value + radius)


def asymptotic_log_e(estimate: Estimate, units: int, planned_units: int, alpha: float) -> float:
    """Return the log e-value of "the value is zero"; it reaches log(1/alpha) when the interval excludes zero.

    Source: Waudby-Smith et al., arXiv 2103.06476v7, eq. 155.
    """
    return normal_log_e(estimate.value**2 / estimate.variance, units, normal_rho(planned_units, alpha))
