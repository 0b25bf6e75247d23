"""A/A tests that are looked at a hundred times: how often each analysis sees a difference."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.experiments import populations
from bench.experiments.simulation import ALPHA, Draw, Size, chunks, moments, naive_z, sketches, wilson
from drw.models.experiments.statistics.contrasts import Contrast, Estimate, NoResult, compare_means, compare_ratios
from drw.models.experiments.statistics.design import FIRST_LOOK
from drw.models.experiments.statistics.mixtures import normal_log_e, normal_rho
from drw.models.experiments.statistics.moments import Moments
from drw.models.experiments.statistics.multiple_testing import e_bh
from drw.models.experiments.statistics.proportions import Events, events_log_e, sample_ratio_log_e
from drw.models.experiments.statistics.quantiles import quantile_log_e
from drw.models.experiments.statistics.scores import Bounds, score_log_e
from drw.models.experiments.statistics.sequences import asymptotic_log_e
from drw.models.experiments.statistics.sketches import Buckets

PLANNED = 5000
LOG_E = -math.log(ALPHA)
LATENCY = Buckets(0.05, 100.0, 0.05)


@dataclass
class Row:
    """False positives of one analysis of one population."""

    name: str
    tests: int
    rejected: int
    naive: int | None = None
    blocked: float = 0.0
    """Share of looks without a result."""
    alpha: float = ALPHA

    def line(self) -> str:
        """Return the row of the table."""
        low, high = wilson(self.rejected, self.tests)
        naive = "" if self.naive is None else f"{self.naive / self.tests:.1%}"
        verdict = "" if self.rejected <= self.alpha * self.tests else " **above alpha**"
        return (
            f"| {self.name} | {self.tests:,} | {self.rejected / self.tests:.2%}{verdict} | {low:.2%} to {high:.2%} "
            f"| {self.alpha:.1%} | {naive} | {self.blocked:.0%} |"
        )


Compare = Callable[[Moments, Moments], Contrast | NoResult]
Pick = Callable[[Contrast], Estimate | None]


def difference(contrast: Contrast) -> Estimate:
    """Return the estimate of the absolute difference, 0 without an effect."""
    return contrast.difference


def lift_beyond(truth: float) -> Pick:
    """Return how to compute the relative lift minus its true value."""

    def pick(contrast: Contrast) -> Estimate | None:
        lift = contrast.lift
        return Estimate(lift.value - truth, lift.variance) if lift else None

    return pick


def asymptotic_stop(
    control: list[Moments], treatment: list[Moments], compare: Compare, pick: Pick
) -> tuple[int | None, int]:
    """Return the first look that rejects, or None, and the number of looks without a result before it."""
    blocked = 0
    for look, (a, b) in enumerate(zip(control, treatment, strict=True)):
        contrast = compare(a, b) if min(a.units, b.units) >= FIRST_LOOK else NoResult("first look")
        estimate = None if isinstance(contrast, NoResult) else pick(contrast)
        if estimate is None or isinstance(contrast, NoResult):
            blocked += 1
        elif asymptotic_log_e(estimate, contrast.units, PLANNED, ALPHA) >= LOG_E:
            return look, blocked
    return None, blocked


def asymptotic(
    name: str, draw: Draw, size: Size, seed: int, compare: Compare = compare_means, pick: Pick = difference
) -> Row:
    """Look at A/A tests of a mean or ratio; naive is a z-test at 5 % per unit, or per request for a ratio."""
    row = Row(name, size.tests, 0, 0 if pick is difference else None)
    blocked = 0
    for treated, columns in chunks(size, draw, seed):
        weights = columns[1] if is_ratio(compare) else None
        if row.naive is not None:
            row.naive += int(naive_z(treated, columns[0], weights).sum())
        for control, treatment in zip(*moments(treated, columns), strict=True):
            look, without = asymptotic_stop(control, treatment, compare, pick)
            row.rejected += look is not None
            blocked += without
    row.blocked = blocked / size.tests / size.looks
    return row


def cuped(control: Moments, treatment: Moments) -> Contrast | NoResult:
    """Compare means with a covariate."""
    return compare_means(control, treatment, covariate=True)


def cuped_ratio(control: Moments, treatment: Moments) -> Contrast | NoResult:
    """Compare ratios with a covariate."""
    return compare_ratios(control, treatment, covariate=True)


def is_ratio(compare: Compare) -> bool:
    """Return whether the first two columns are events and requests."""
    return compare in (compare_ratios, cuped_ratio)


def exact(name: str, draw: Draw, size: Size, seed: int, log_e: Callable[[Moments, Moments], float]) -> Row:
    """Look at A/A tests of events or scores, from the first unit."""
    row = Row(name, size.tests, 0, 0)
    for treated, columns in chunks(size, draw, seed):
        row.naive = (row.naive or 0) + int(naive_z(treated, columns[0]).sum())
        for control, treatment in zip(*moments(treated, columns), strict=True):
            row.rejected += any(log_e(a, b) >= LOG_E for a, b in zip(control, treatment, strict=True))
    return row


def events(control: Moments, treatment: Moments) -> float:
    """Return the log e-value of the same event rate."""
    first, second = (Events(arm.units, round(arm.sums[0])) for arm in (control, treatment))
    return events_log_e(first, second, 0.5, 200, ALPHA)


def scores(control: Moments, treatment: Moments) -> float:
    """Return the log e-value of the same mean score."""
    return score_log_e(control, treatment, Bounds(0.0, 1.0), PLANNED, ALPHA)


def quantile(name: str, draw: Draw, size: Size, seed: int, level: float) -> Row:
    """Look at A/A tests of a quantile; naive is a z-test of the requests above the pooled quantile."""
    row = Row(name, size.tests, 0, 0)
    for treated, (values,) in chunks(size, draw, seed):
        requests = values if values.ndim == 4 else values[..., None]
        threshold = np.nanquantile(requests[:4], level)
        above = (requests > threshold).sum(axis=3).astype(float)
        row.naive = (row.naive or 0) + int(naive_z(treated, above, (~np.isnan(requests)).sum(axis=3)).sum())
        for control, treatment in zip(*sketches(treated, values, LATENCY), strict=True):
            row.rejected += any(
                quantile_log_e(a, b, level, PLANNED, ALPHA) >= LOG_E for a, b in zip(control, treatment, strict=True)
            )
    return row


def sample_ratio(size: Size, seed: int, weights: tuple[float, ...]) -> Row:
    """Look at correct assignments; naive is a chi-squared test at 0.1 %."""
    critical = {2: 10.827566, 3: 13.815511}[len(weights)]
    random = np.random.default_rng(seed)
    shares = np.asarray(weights) / sum(weights)
    counts = random.multinomial(size.step, shares, (size.tests, size.looks)).cumsum(axis=1)
    expected = counts.sum(axis=2, keepdims=True) * shares
    naive = ((counts - expected) ** 2 / expected).sum(axis=2) > critical
    threshold = -math.log(0.001)
    rejected = sum(
        any(sample_ratio_log_e(look, weights, PLANNED, 0.001) >= threshold for look in test) for test in counts.tolist()
    )
    name = f"sample ratio {':'.join(f'{weight:g}' for weight in weights)} (Dirichlet-multinomial)"
    return Row(name, size.tests, rejected, int(naive.any(axis=1).sum()), alpha=0.001)


def returning_users(tests: int, seed: int) -> Row:
    """Look at users who come back between looks, so that their totals grow; all have arrived at half of the looks."""
    users, looks = 4000, 100
    row = Row("ratio, clustered, users return between looks", tests, 0, 0)
    random = np.random.default_rng(seed)
    blocked = 0
    for _ in range(tests):
        active = np.arange(looks) >= random.integers(0, looks // 2, users)[:, None]
        activity = 0.2 * np.exp(0.5 * random.standard_normal(users))
        requests = random.poisson(np.broadcast_to(activity[:, None], active.shape)) + 1
        requests = np.minimum((requests * active).cumsum(axis=1), 100)
        arrived = np.diff(requests, axis=1, prepend=0)
        failed = random.binomial(arrived, random.beta(2.0, 38.0, users)[:, None]).cumsum(axis=1)
        treated = random.random(users) < 0.5
        a, b = (_snapshots(failed[mask], requests[mask], active[mask]) for mask in (~treated, treated))
        look, without = asymptotic_stop(a, b, compare_ratios, difference)
        row.rejected += look is not None
        blocked += without
        row.naive = (row.naive or 0) + _naive_snapshots(a, b)
    row.blocked = blocked / tests / looks
    return row


def _snapshots(failed: np.ndarray, requests: np.ndarray, active: np.ndarray) -> list[Moments]:
    """Return the moments at each look of users, whose totals are zero before they arrive."""
    units = active.sum(axis=0).tolist()
    sums = np.stack([failed.sum(axis=0), requests.sum(axis=0)], axis=-1).astype(float).tolist()
    pairs = [np.einsum("ul,ul->l", a, b) for a, b in ((failed, failed), (failed, requests), (requests, requests))]
    products = np.stack(pairs, axis=-1).astype(float).tolist()
    most = np.stack([failed.max(axis=0), requests.max(axis=0)], axis=-1).astype(float).tolist()
    return [
        Moments(n, tuple(total), tuple(product), (0.0, 1.0), tuple(high))
        for n, total, product, high in zip(units, sums, products, most, strict=True)
    ]


def _naive_snapshots(control: list[Moments], treatment: list[Moments]) -> bool:
    """Return whether a z-test at 5 % of the requests, taken to be independent, rejects at any look."""
    for a, b in zip(control, treatment, strict=True):
        rates = [arm.sums[0] / arm.sums[1] for arm in (a, b)]
        error = sum(rate * (1 - rate) / arm.sums[1] for rate, arm in zip(rates, (a, b), strict=True))
        if error and abs(rates[1] - rates[0]) > 1.959964 * math.sqrt(error):
            return True
    return False


def many_metrics(tests: int, seed: int, real: int) -> Row:
    """Look at ten metrics, some with a real effect: the share of false discoveries at the first discovery, by e-BH.

    Without real effects, naive is a z-test of each metric at 5 %.
    """
    looks, step, metrics = 100, 100, 10
    random = np.random.default_rng(seed)
    rho = normal_rho(PLANNED, ALPHA)
    effect = 0.12 * (np.arange(metrics) < real)
    false = 0.0
    naive = 0
    for _ in range(tests):
        noise = random.standard_normal((looks, metrics)).cumsum(axis=0) * math.sqrt(step)
        units = np.arange(1, looks + 1)[:, None] * step
        z = (noise + units * effect / 2) / np.sqrt(units)
        naive += bool((np.abs(z[:, real:]) > 1.959964).any())
        for look in range(FIRST_LOOK * 2 // step, looks):
            found = e_bh([normal_log_e(value**2, (look + 1) * step, rho) for value in z[look].tolist()], ALPHA)
            if any(found):
                false += sum(found[real:]) / sum(found)
                break
    name = f"10 metrics, {real} with an effect: false discovery rate (e-BH)"
    return Row(name, tests, round(false), naive)


def allocation(tests: int, seed: int, share: float) -> tuple[float, float]:
    """Return the false positives of a heavy-tailed mean at an allocation, without the checks of the design.

    The first rate is of looks from two units an arm, the second of looks from 500.
    """
    early = late = 0
    for treated, columns in chunks(Size(tests, 100, 100), populations.lognormal(1.5), seed, share):
        for control, treatment in zip(*moments(treated, columns), strict=True):
            looks = [(min(a.units, b.units), _unchecked(a, b)) for a, b in zip(control, treatment, strict=True)]
            early += any(log_e >= LOG_E for _, log_e in looks)
            late += any(log_e >= LOG_E for units, log_e in looks if units >= FIRST_LOOK)
    return early / tests, late / tests


def _unchecked(a: Moments, b: Moments) -> float:
    if min(a.units, b.units) < 2:
        return 0.0
    variance = a.variance_of((1.0,)) / a.units + b.variance_of((1.0,)) / b.units
    estimate = Estimate(b.mean(0) - a.mean(0), variance)
    return asymptotic_log_e(estimate, a.units + b.units, PLANNED, ALPHA) if variance else 0.0
