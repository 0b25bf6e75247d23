"""Simulated experiments: units arrive at random in two arms, and statistics accumulate from look to look."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drw.models.experiments.statistics.moments import Moments
from drw.models.experiments.statistics.sketches import Buckets, Sketch

ALPHA = 0.05
CHUNK = 50

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, NDArray[np.bool_]], tuple[Array, ...]]
"""Makes the columns of units from the arm of each unit."""
Lists = list[list[list[float]]]
"""One value for each test, look and column."""


@dataclass(frozen=True)
class Size:
    """How many experiments, how often they are looked at, and the units of both arms between two looks."""

    tests: int
    looks: int
    step: int


def chunks(
    size: Size, draw: Draw, seed: int, share: float = 0.5
) -> Iterator[tuple[NDArray[np.bool_], tuple[Array, ...]]]:
    """Yield the arms and the columns of some experiments at a time, each of the shape (tests, looks, step, ...)."""
    random = np.random.default_rng(seed)
    for start in range(0, size.tests, CHUNK):
        shape = (min(CHUNK, size.tests - start), size.looks, size.step)
        treated = random.random(shape) < share
        yield treated, draw(random, treated)


def moments(treated: NDArray[np.bool_], columns: tuple[Array, ...]) -> tuple[list[list[Moments]], ...]:
    """Return the moments of control and of treatment, for each experiment at each look."""
    return tuple(_arm_moments(mask, columns) for mask in (~treated, treated))


def _arm_moments(mask: NDArray[np.bool_], columns: tuple[Array, ...]) -> list[list[Moments]]:
    units = mask.sum(axis=2).cumsum(axis=1).tolist()
    inside = [np.where(mask, column, 0.0) for column in columns]
    sums = np.stack([column.sum(axis=2) for column in inside], axis=-1).cumsum(axis=1).tolist()
    pairs = [(a * b).sum(axis=2) for i, a in enumerate(inside) for b in inside[i:]]
    products = np.stack(pairs, axis=-1).cumsum(axis=1).tolist()
    lows = _extremes(mask, columns, np.minimum, np.inf)
    highs = _extremes(mask, columns, np.maximum, -np.inf)
    return [
        [
            Moments(
                units[t][look],
                tuple(sums[t][look]),
                tuple(products[t][look]),
                tuple(lows[t][look]),
                tuple(highs[t][look]),
            )
            for look in range(len(units[t]))
        ]
        for t in range(len(units))
    ]


def _extremes(mask: NDArray[np.bool_], columns: tuple[Array, ...], best: np.ufunc, nothing: float) -> Lists:
    found = [best.accumulate(best.reduce(np.where(mask, c, nothing), axis=2), axis=1) for c in columns]
    return np.stack(found, axis=-1).tolist()


def sketches(treated: NDArray[np.bool_], values: Array, buckets: Buckets) -> tuple[list[list[Sketch]], ...]:
    """Return the sketches of control and of treatment at each look; requests of a unit are the last axis, or NaN."""
    tests, looks, _ = treated.shape
    requests = values if values.ndim == 4 else values[..., None]
    present = ~np.isnan(requests)
    weights = present / present.sum(axis=3, keepdims=True)
    index = np.searchsorted(np.asarray(buckets.edges), requests, side="left")
    cell = np.arange(tests * looks).reshape(tests, looks, 1, 1) * 2 + treated[..., None]
    size = len(buckets)
    flat = (cell * size + index)[present]
    counts = np.bincount(flat, weights=weights[present], minlength=tests * looks * 2 * size)
    ends = counts.reshape(tests, looks, 2, size).cumsum(axis=1)
    units = [(~treated).sum(axis=2).cumsum(axis=1), treated.sum(axis=2).cumsum(axis=1)]
    return tuple(
        [
            [Sketch(int(units[arm][t, look]), tuple(ends[t, look, arm].tolist())) for look in range(looks)]
            for t in range(tests)
        ]
        for arm in (0, 1)
    )


def first_look_at(reached: Callable[[int], bool], looks: int) -> int | None:
    """Return the first look at which a test rejects, or None."""
    return next((look for look in range(looks) if reached(look)), None)


def naive_z(treated: NDArray[np.bool_], column: Array, weights: Array | None = None) -> NDArray[np.bool_]:
    """Return whether a z-test at 5 % rejects at any look; with weights, each unit stands for that many requests.

    A column with weights is the number of requests with the event, which are taken to be independent.
    """
    count = np.ones_like(column) if weights is None else weights
    squares = column * column if weights is None else column
    sums = [
        [np.where(mask, x, 0.0).sum(axis=2).cumsum(axis=1) for x in (count, column, squares)]
        for mask in (~treated, treated)
    ]
    with np.errstate(divide="ignore", invalid="ignore"):
        means = [total / n for n, total, _ in sums]
        errors = [(square / n - mean**2) / n for (n, _, square), mean in zip(sums, means, strict=True)]
        z = (means[1] - means[0]) / np.sqrt(errors[0] + errors[1])
    return (np.abs(z) > 1.959964).any(axis=1)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion (Wilson 1927)."""
    z = 1.959964
    rate, spread = successes / trials, z * z / trials
    middle = (rate + spread / 2) / (1 + spread)
    radius = z / (1 + spread) * math.sqrt(rate * (1 - rate) / trials + spread / (4 * trials))
    return max(middle - radius, 0.0), min(middle + radius, 1.0)
