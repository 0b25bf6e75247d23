"""False discovery rate over many comparisons by e-values: the e-BH procedure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from drw.models.experiments.statistics.errors import InvalidStatistics, checked_probability


def e_bh(log_e_values: Sequence[float], alpha: float) -> tuple[bool, ...]:
    """Return for each log e-value whether its null hypothesis is rejected.

    The k largest are rejected for the largest k such that the k-th largest e-value is at least n / (alpha k). The
    expected share of false rejections is at most alpha under any dependence. A comparison without a result counts,
    with the log e-value 0. Pass current e-values: the highest e-value so far is no e-value.

    Source: Wang and Ramdas, "False discovery rate control with e-values", JRSS B 84 (2022).
    """
    checked_probability("alpha", alpha)
    if any(map(math.isnan, log_e_values)):
        raise InvalidStatistics("an e-value is NaN")
    total = len(log_e_values)
    rejected = 0
    for rank, value in enumerate(sorted(log_e_values, reverse=True), start=1):
        if value >= math.log(total / (alpha * rank)):
            rejected = rank
    if rejected == 0:
        return (False,) * total
    threshold = math.log(total / (alpha * rejected))
    return tuple(value >= threshold for value in log_e_values)
