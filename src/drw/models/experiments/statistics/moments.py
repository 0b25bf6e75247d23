"""Mergeable moments of per-unit values: counts, sums, sums of products, extremes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from drw.models.experiments.statistics.errors import InvalidStatistics, checked_count, checked_value

ROUNDING = 1e-12
"""Relative to the mean square: a smaller variance is rounding error of the sums."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over the units of one arm, each unit with one value a column.

    A mean has the column (value), a ratio (numerator, denominator). A pre-experiment covariate (CUPED) appends its own
    columns: (value, covariate) or (numerator, denominator, numerator before, denominator before).

    Attributes:
        units: number of units.
        sums: sum of each column.
        products: sums of the products of columns i <= j, in the order 00, 01, ..., 11, 12, ...
        lows, highs: extremes of each column. They need not shrink when a unit's values are replaced.

    A unit that returns with new requests has a new total. Replace its values:
    `arm - Moments.of_unit(*old) + Moments.of_unit(*new)`.
    """

    units: int
    sums: tuple[float, ...]
    products: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]

    def __post_init__(self) -> None:
        checked_count("units", self.units)
        columns = len(self.sums)
        if columns == 0 or len(self.products) != columns * (columns + 1) // 2:
            raise InvalidStatistics(f"{columns} sums need {columns * (columns + 1) // 2} products")
        if len(self.lows) != columns or len(self.highs) != columns:
            raise InvalidStatistics(f"{columns} sums need as many lows and highs")
        if not all(map(math.isfinite, self.sums + self.products)):
            raise InvalidStatistics(f"sums and products must be finite, not {self.sums!r} and {self.products!r}")
        if self.units:
            self._check_consistent()
        elif any(self.sums) or any(self.products):
            raise InvalidStatistics(f"0 units with the sums {self.sums!r}")

    def _check_consistent(self) -> None:
        for column, total in enumerate(self.sums):
            low, high = self.lows[column], self.highs[column]
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise InvalidStatistics(f"column {column} lies between {low!r} and {high!r}")
            squares = self.products[self._index(column, column)]
            slack = ROUNDING * self.units * max(low * low, high * high)
            if squares < 0 or squares - total * total / self.units < -max(slack, 1e-9 * squares):
                raise InvalidStatistics(
                    f"column {column}: a sum of squares of {squares!r} is too small for a sum of {total!r} "
                    f"over {self.units} units"
                )

    @classmethod
    def empty(cls, columns: int) -> Self:
        """Return the moments of no units."""
        zeros = (0.0,) * columns
        products = (0.0,) * (columns * (columns + 1) // 2)
        return cls(0, zeros, products, (math.inf,) * columns, (-math.inf,) * columns)

    @classmethod
    def of_unit(cls, *values: float) -> Self:
        """Return the moments of one unit with one value a column."""
        row = tuple(checked_value("a unit's value", value) for value in values)
        return cls(1, row, tuple(a * b for i, a in enumerate(row) for b in row[i:]), row, row)

    @classmethod
    def of_units(cls, rows: Sequence[Sequence[float]]) -> Self:
        """Return the moments of one or more units.

        Raises:
            InvalidStatistics: no units, rows of different lengths, or a value that is not finite.
        """
        if not rows or len({len(row) for row in rows}) != 1:
            raise InvalidStatistics("one or more rows of the same length are needed")
        columns = [[checked_value("a unit's value", value) for value in column] for column in zip(*rows, strict=True)]
        products = tuple(
            math.fsum(a * b for a, b in zip(left, right, strict=True))
            for i, left in enumerate(columns)
            for right in columns[i:]
        )
        sums = tuple(map(math.fsum, columns))
        return cls(len(rows), sums, products, tuple(map(min, columns)), tuple(map(max, columns)))

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of both sets of units, which must not share units."""
        self._check_columns(other)
        return Moments(
            self.units + other.units,
            tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)),
            tuple(a + b for a, b in zip(self.products, other.products, strict=True)),
            tuple(map(min, self.lows, other.lows)),
            tuple(map(max, self.highs, other.highs)),
        )

    def __sub__(self, other: Moments) -> Moments:
        """Return the moments without the units of `other`, which must be part of these; extremes stay."""
        self._check_columns(other)
        if self.units == other.units:
            return Moments.empty(len(self.sums))
        return Moments(
            self.units - other.units,
            tuple(a - b for a, b in zip(self.sums, other.sums, strict=True)),
            tuple(a - b for a, b in zip(self.products, other.products, strict=True)),
            self.lows,
            self.highs,
        )

    def _check_columns(self, other: Moments) -> None:
        if len(self.sums) != len(other.sums):
            raise InvalidStatistics(f"moments of {len(self.sums)} and {len(other.sums)} columns do not merge")

    def _index(self, i: int, j: int) -> int:
        low, high = (i, j) if i <= j else (j, i)
        return low * len(self.sums) - low * (low - 1) // 2 + high - low

    def mean(self, column: int) -> float:
        """Return the mean of a column. There must be a unit."""
        return self.sums[column] / self.units

    def covariance(self, i: int, j: int) -> float:
        """Return the sample covariance of two columns. There must be two units.

        It is 0 where the sums cannot tell it from rounding error.
        """
        product = self.products[self._index(i, j)]
        central = product - self.sums[i] * self.sums[j] / self.units
        if i == j and central <= ROUNDING * product:
            return 0.0
        return central / (self.units - 1)

    def variance_of(self, gradient: Sequence[float]) -> float:
        """Return the sample variance of a linear combination of the columns."""
        used = [i for i, factor in enumerate(gradient) if factor]
        total = sum(gradient[i] * gradient[j] * self.covariance(i, j) for i in used for j in used)
        scale = max((gradient[i] ** 2 * self.covariance(i, i) for i in used), default=0.0)
        return total if total > 1e-9 * scale else 0.0

    def largest_share(self, gradient: Sequence[float]) -> float:
        """Return a bound on one unit's share of the squared deviations of a column, of those that are combined."""
        largest = 0.0
        for i, factor in enumerate(gradient):
            if factor and (variance := self.covariance(i, i)):
                deviation = max(self.highs[i] - self.mean(i), self.mean(i) - self.lows[i])
                largest = max(largest, deviation * deviation / (variance * self.units))
        return largest
