"""Populations of simulated units: light and heavy tails, events, clustered requests, covariates."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from bench.experiments.simulation import Array, Draw

Mask = NDArray[np.bool_]


def normal(effect: float = 0.0) -> Draw:
    """Return normal values; the effect is in standard deviations."""
    return lambda random, treated: (10 + random.standard_normal(treated.shape) + effect * treated,)


def lognormal(sigma: float, lift: float = 0.0, cap: float = math.inf) -> Draw:
    """Return lognormal values with a median of 1, multiplied by 1 + lift in the treatment, and capped."""
    return lambda random, treated: (
        np.minimum(np.exp(sigma * random.standard_normal(treated.shape)) * (1 + lift * treated), cap),
    )


def other_shape(sigma: float, cap: float = math.inf) -> Draw:
    """Return nearly constant values in control, and lognormal ones with the same mean in the treatment."""
    mean = _lognormal_mean(sigma, cap)

    def draw(random: np.random.Generator, treated: Mask) -> tuple[Array, ...]:
        z = random.standard_normal(treated.shape)
        return (np.where(treated, np.minimum(np.exp(sigma * z), cap), mean + 0.1 * z),)

    return draw


def _lognormal_mean(sigma: float, cap: float) -> float:
    """Return the mean of min(exp(sigma Z), cap) for a standard normal Z."""
    below = NormalDist().cdf
    full = math.exp(sigma * sigma / 2)
    if math.isinf(cap):
        return full
    z = math.log(cap) / sigma
    return full * below(z - sigma) + cap * (1 - below(z))


def pareto(tail: float, lift: float = 0.0, cap: float = math.inf) -> Draw:
    """Return Pareto values of at least 1: P(X > x) = x^-tail. The variance is infinite for tails of 2 or less."""
    return lambda random, treated: (np.minimum((1 + random.pareto(tail, treated.shape)) * (1 + lift * treated), cap),)


def event(rate: float, lift: float = 0.0) -> Draw:
    """Return whether each unit has an event."""
    return lambda random, treated: ((random.random(treated.shape) < rate * (1 + lift * treated)).astype(float),)


def score(mean: float, precision: float, shift: float = 0.0) -> Draw:
    """Return beta-distributed scores between 0 and 1."""

    def draw(random: np.random.Generator, treated: Mask) -> tuple[Array, ...]:
        centre = mean + shift * treated
        return (random.beta(precision * centre, precision * (1 - centre)),)

    return draw


def covariate(correlation: float, effect: float = 0.0) -> Draw:
    """Return normal values with a covariate from before the experiment."""

    def draw(random: np.random.Generator, treated: Mask) -> tuple[Array, ...]:
        before = random.standard_normal(treated.shape)
        noise = random.standard_normal(treated.shape) * math.sqrt(1 - correlation**2)
        return 10 + correlation * before + noise + effect * treated, 5 + before

    return draw


def clustered(rate: float, lift: float = 0.0, before: bool = False) -> Draw:
    """Return failed requests and requests of users, who differ in both; with `before`, also of an earlier period.

    A user makes 1 + Poisson(m) requests with m lognormal (median 12), of which the first 100 count, and fails at a
    beta-distributed rate.
    """

    def draw(random: np.random.Generator, treated: Mask) -> tuple[Array, ...]:
        activity = 12 * np.exp(0.8 * random.standard_normal(treated.shape))
        own = random.beta(2.0, 2.0 / rate - 2.0, treated.shape)
        requests = np.minimum(1 + random.poisson(activity), 100)
        failed = random.binomial(requests, np.minimum(own * (1 + lift * treated), 1.0))
        columns = [failed, requests]
        if before:
            earlier = np.minimum(1 + random.poisson(activity), 100)
            columns += [random.binomial(earlier, own), earlier]
        return tuple(column.astype(float) for column in columns)

    return draw


def clustered_latency(most: int) -> Draw:
    """Return the latencies of 1 to `most` requests of each user, with a factor of the user; NaN beyond the last."""

    def draw(random: np.random.Generator, treated: Mask) -> tuple[Array, ...]:
        user = 0.6 * random.standard_normal((*treated.shape, 1))
        latency = np.exp(user + 0.4 * random.standard_normal((*treated.shape, most)))
        count = random.integers(1, most + 1, (*treated.shape, 1))
        return (np.where(np.arange(most) < count, latency, np.nan),)

    return draw
