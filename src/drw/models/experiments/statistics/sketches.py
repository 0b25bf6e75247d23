"""Mergeable histogram with fixed log-spaced buckets, in which each unit weighs 1."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from drw.models.experiments.statistics.errors import InvalidDesign, InvalidStatistics, checked_count

MAX_BUCKETS = 4096
"""The largest histogram: 32 kB of doubles an arm and metric."""
SLACK = 1e-9
"""Relative rounding error of the sum of a histogram's weights."""


@lru_cache(maxsize=256)
def _edges(low: float, high: float, accuracy: float) -> tuple[float, ...]:
    count = math.ceil(math.log(high / low) / math.log1p(accuracy))
    return (*(low * (1 + accuracy) ** i for i in range(count)), high)


@dataclass(frozen=True, slots=True)
class Buckets:
    """Buckets for values of zero or more, each `accuracy` wider than the one below.

    The first bucket holds values up to `low`, the last one values above `high`. A bucket includes its upper edge.
    """

    low: float
    high: float
    accuracy: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf:
            raise InvalidDesign(f"buckets need 0 < low < high, not {self.low!r} and {self.high!r}")
        if not 0.0001 <= self.accuracy <= 1:
            raise InvalidDesign(f"the accuracy of buckets must lie between 0.0001 and 1, not {self.accuracy!r}")
        count = math.log(self.high / self.low) / math.log1p(self.accuracy) + 2
        if count > MAX_BUCKETS:
            raise InvalidDesign(
                f"an accuracy of {self.accuracy!r} from {self.low!r} to {self.high!r} takes "
                f"{math.ceil(count)} buckets; the limit is {MAX_BUCKETS}"
            )

    @property
    def edges(self) -> tuple[float, ...]:
        """Upper edges of all buckets but the last, which has none."""
        return _edges(self.low, self.high, self.accuracy)

    def __len__(self) -> int:
        return len(self.edges) + 1

    def index(self, value: float) -> int:
        """Return the bucket of a value.

        Raises:
            InvalidStatistics: the value is NaN, infinite or negative.
        """
        if not 0 <= value < math.inf:
            raise InvalidStatistics(f"a value of a quantile metric must be finite and not negative, not {value!r}")
        return bisect_left(self.edges, value)

    def lower_edge(self, index: int) -> float:
        """Return the lower edge of a bucket: 0 for the first."""
        return self.edges[index - 1] if index else 0.0

    def upper_edge(self, index: int) -> float:
        """Return the upper edge of a bucket: infinity for the last."""
        return self.edges[index] if index < len(self.edges) else math.inf


@dataclass(frozen=True, slots=True)
class Sketch:
    """Weights of the buckets over the units of one arm; each unit divides a weight of 1 among its values.

    Attributes:
        units: number of units.
        weights: weight of each bucket. They sum to `units`.
    """

    units: int
    weights: tuple[float, ...] = field(repr=False)

    def __post_init__(self) -> None:
        checked_count("units", self.units)
        rounding = SLACK * max(self.units, 1)
        total = math.fsum(self.weights) if self.weights and min(self.weights) >= -rounding else math.nan
        if not abs(total - self.units) <= rounding:
            raise InvalidStatistics(f"weights of buckets must be finite, not negative, and sum to {self.units} units")

    @classmethod
    def empty(cls, buckets: Buckets) -> Sketch:
        """Return the sketch of no units."""
        return cls(0, (0.0,) * len(buckets))

    @classmethod
    def of_unit(cls, buckets: Buckets, values: Sequence[float]) -> Sketch:
        """Return the sketch of one unit with one or more values, such as the latencies of a user's requests."""
        if not values:
            raise InvalidStatistics("a unit needs one or more values")
        weights = [0.0] * len(buckets)
        for value in values:
            weights[buckets.index(value)] += 1 / len(values)
        return cls(1, tuple(weights))

    def __add__(self, other: Sketch) -> Sketch:
        """Return the sketch of both sets of units, which must not share units."""
        self._check_buckets(other)
        merged = tuple(a + b for a, b in zip(self.weights, other.weights, strict=True))
        return Sketch(self.units + other.units, merged)

    def __sub__(self, other: Sketch) -> Sketch:
        """Return the sketch without the units of `other`, which must be part of this one."""
        self._check_buckets(other)
        rest = tuple(
            max(a - b, 0.0) if a - b > -SLACK else a - b for a, b in zip(self.weights, other.weights, strict=True)
        )
        return Sketch(self.units - other.units, rest)

    def _check_buckets(self, other: Sketch) -> None:
        if len(self.weights) != len(other.weights):
            raise InvalidStatistics(f"sketches of {len(self.weights)} and {len(other.weights)} buckets do not merge")
