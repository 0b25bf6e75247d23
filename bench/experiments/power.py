"""A/B tests with an effect: how often and how soon each analysis finds it, beside a fixed-horizon z-test."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bench.experiments.false_positives import (
    LATENCY,
    LOG_E,
    PLANNED,
    Compare,
    asymptotic_stop,
    difference,
)
from bench.experiments.simulation import ALPHA, Array, Draw, Size, chunks, first_look_at, moments, sketches
from drw.models.experiments.statistics.contrasts import NoResult, compare_means
from drw.models.experiments.statistics.moments import Moments
from drw.models.experiments.statistics.proportions import sample_ratio_log_e
from drw.models.experiments.statistics.quantiles import quantile_log_e
from drw.models.experiments.statistics.sample_size import fixed_units_needed, units_needed, z_test_p_value

T = TypeVar("T")


@dataclass
class Row:
    """Detections of one effect."""

    name: str
    effect: str
    size: Size
    stops: list[int | None] = field(default_factory=list)
    """Units of both arms at the first rejection."""
    fixed: int | None = None
    """Rejections of one z-test at the end."""
    needed: tuple[int, int] | None = None
    """Units an arm for a power of 80 %: fixed horizon, and the estimate for always-valid analysis."""

    def line(self) -> str:
        """Return the row of the table; the median counts tests that never stop as infinite."""
        found = sum(stop is not None for stop in self.stops) / self.size.tests
        median = statistics.median(math.inf if stop is None else stop / 2 for stop in self.stops)
        stopped = "never" if math.isinf(median) else f"{median:,.0f}"
        fixed = "" if self.fixed is None else f"{self.fixed / self.size.tests:.0%}"
        horizon, estimate = (f"{n:,}" for n in self.needed) if self.needed else ("", "")
        most = self.size.looks * self.size.step // 2
        return (
            f"| {self.name} | {self.effect} | {most:,} | {found:.0%} | {stopped} | {fixed} | {horizon} | {estimate} |"
        )


def _needed(deviation: float, effect: float) -> tuple[int, int]:
    return fixed_units_needed(deviation, effect), units_needed(deviation, effect, planned_units=PLANNED)


def asymptotic(
    name: str, effect: str, draw: Draw, size: Size, seed: int, compare: Compare = compare_means, absolute: float = 0.0
) -> Row:
    """Look for the effect on a mean or ratio; `absolute` is the effect on the mean, to estimate the units needed."""
    row = Row(name, effect, size, fixed=0)
    deviations = []
    for treated, columns in chunks(size, draw, seed):
        for control, treatment in zip(*moments(treated, columns), strict=True):
            look, _ = asymptotic_stop(control, treatment, compare, difference)
            row.stops.append(None if look is None else (look + 1) * size.step)
            end = compare(control[-1], treatment[-1])
            if not isinstance(end, NoResult):
                row.fixed = (row.fixed or 0) + (z_test_p_value(end.difference) <= ALPHA)
                deviations.append(math.sqrt(end.difference.variance * end.units) / 2)
    if absolute:
        row.needed = _needed(statistics.mean(deviations), absolute)
    return row


def exact(
    name: str,
    effect: str,
    draw: Draw,
    size: Size,
    seed: int,
    log_e: Callable[[Moments, Moments], float],
    needed: tuple[float, float] | None = None,
) -> Row:
    """Look for the effect on events or scores."""
    row = Row(name, effect, size, fixed=0, needed=_needed(*needed) if needed else None)
    for treated, columns in chunks(size, draw, seed):
        for control, treatment in zip(*moments(treated, columns), strict=True):
            row.stops.append(_stop(control, treatment, log_e, size))
            end = compare_means(control[-1], treatment[-1])
            row.fixed = (row.fixed or 0) + (not isinstance(end, NoResult) and z_test_p_value(end.difference) <= ALPHA)
    return row


def _stop(control: Sequence[T], treatment: Sequence[T], log_e: Callable[[T, T], float], size: Size) -> int | None:
    look = first_look_at(lambda i: log_e(control[i], treatment[i]) >= LOG_E, size.looks)
    return None if look is None else (look + 1) * size.step


def quantile(name: str, effect: str, draw: Draw, size: Size, seed: int, level: float) -> Row:
    """Look for the effect on a quantile."""
    row = Row(name, effect, size, fixed=0)
    for treated, (values,) in chunks(size, draw, seed):
        row.fixed = (row.fixed or 0) + _share_above(treated, values, level)
        for control, treatment in zip(*sketches(treated, values, LATENCY), strict=True):
            row.stops.append(_stop(control, treatment, lambda a, b: quantile_log_e(a, b, level, PLANNED, ALPHA), size))
    return row


def _share_above(treated: NDArray[np.bool_], values: Array, level: float) -> int:
    """Return how many z-tests of the share of units above the pooled quantile reject at the end."""
    above = values > np.quantile(values, level, axis=(1, 2), keepdims=True)
    counts = [mask.sum(axis=(1, 2)) for mask in (~treated, treated)]
    rates = [(above & mask).sum(axis=(1, 2)) / n for mask, n in zip((~treated, treated), counts, strict=True)]
    error = sum(rate * (1 - rate) / n for rate, n in zip(rates, counts, strict=True))
    return int((np.abs(rates[1] - rates[0]) > 1.959964 * np.sqrt(error)).sum())


def sample_ratio(size: Size, seed: int, actual: float) -> Row:
    """Look for a mismatch of units whose weights are equal; the row counts both arms, as the alarm does."""
    random = np.random.default_rng(seed)
    counts = random.binomial(size.step, actual, (size.tests, size.looks)).cumsum(axis=1).tolist()
    row = Row("sample ratio at 0.1 %, units of both arms", f"{1 - actual:.0%} : {actual:.0%}", size)
    threshold = -math.log(0.001)
    for test in counts:

        def mismatch(look: int, test: list[int] = test) -> bool:
            units = (look + 1) * size.step
            return sample_ratio_log_e((units - test[look], test[look]), (1, 1), PLANNED, 0.001) >= threshold

        look = first_look_at(mismatch, size.looks)
        row.stops.append(None if look is None else 2 * (look + 1) * size.step)
    return row
