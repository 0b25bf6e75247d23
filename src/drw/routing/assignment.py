"""Deterministic assignment of units to arms: GrowthBook's hash, bucket ranges, coverage and namespaces.

The same seed, unit and weights give the same arm as in GrowthBook's SDKs. Where an SDK replaces invalid weights or
coverage by defaults, this module raises an error.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

OFFSET = 0x811C9DC5
PRIME = 0x01000193
TOLERANCE = 0.01
"""Weights may sum to 1 within this, as in the SDKs."""


class InvalidAllocation(ValueError):
    """The weights, coverage or namespace of an experiment are invalid."""


def _fnv1a(text: str) -> int:
    """Return the 32-bit FNV-1a hash of a text's UTF-16 code units, as JavaScript's charCodeAt reads them."""
    encoded = text.encode("utf-16-le", "surrogatepass")
    value = OFFSET
    for low, high in zip(encoded[::2], encoded[1::2], strict=True):
        value = ((value ^ (low | high << 8)) * PRIME) & 0xFFFFFFFF
    return value


def bucket(seed: str, unit: str, version: int = 2) -> float | None:
    """Return a unit's position in [0, 1), or None for an unknown version of the hash.

    Version 2 has 10,000 positions and is unbiased. Version 1 has 1,000 and is biased between experiments: use it only
    to continue an experiment.

    Source: GrowthBook, packages/sdk-js/src/util.ts, `hash`.
    """
    if version == 2:
        return _fnv1a(str(_fnv1a(seed + unit))) % 10000 / 10000
    if version == 1:
        return _fnv1a(unit + seed) % 1000 / 1000
    return None


def bucket_ranges(weights: Sequence[float], coverage: float = 1.0) -> tuple[tuple[float, float], ...]:
    """Return the range of positions of each arm: [start, start + coverage * weight).

    An arm's range starts where it would with full coverage, so raising the coverage moves no unit between arms.

    Raises:
        InvalidAllocation: a weight is negative or not finite, the weights do not sum to 1, or the coverage is not
            between 0 and 1.
    """
    if not 0 <= coverage <= 1:
        raise InvalidAllocation(f"coverage must lie between 0 and 1, not {coverage!r}")
    if not all(0 <= weight < math.inf for weight in weights):
        raise InvalidAllocation(f"weights must be finite and not negative, not {tuple(weights)!r}")
    if abs(sum(weights) - 1) > TOLERANCE:
        raise InvalidAllocation(f"weights must sum to 1, not {sum(weights)!r}")
    ranges = []
    start = 0.0
    for weight in weights:
        ranges.append((start, start + coverage * weight))
        start += weight
    return tuple(ranges)


@dataclass(frozen=True, slots=True)
class Namespace:
    """A share of all units: experiments with disjoint ranges of one namespace share no unit."""

    name: str
    start: float
    end: float

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= 1:
            raise InvalidAllocation(f"a namespace needs 0 <= start <= end <= 1, not {self.start!r} and {self.end!r}")

    def contains(self, unit: str) -> bool:
        """Return whether a unit belongs to this range of the namespace; always by version 1 of the hash."""
        position = bucket(f"__{self.name}", unit, version=1)
        return position is not None and self.start <= position < self.end


@dataclass(frozen=True, slots=True)
class Allocation:
    """How units are assigned to the arms of one experiment."""

    seed: str
    weights: tuple[float, ...]
    coverage: float = 1.0
    version: int = 2
    namespace: Namespace | None = None

    def __post_init__(self) -> None:
        bucket_ranges(self.weights, self.coverage)
        if self.version not in (1, 2):
            raise InvalidAllocation(f"the version of the hash must be 1 or 2, not {self.version!r}")

    @classmethod
    def of_weights(cls, seed: str, weights: Sequence[int], percent: int) -> Allocation:
        """Return the allocation of `percent` of all units to arms by integer weights.

        Raises:
            InvalidAllocation: a weight is negative, or the percentage is not between 0 and 100.
        """
        total = sum(weights)
        return cls(seed, tuple(weight / total for weight in weights), percent / 100)

    def arm(self, unit: str) -> int | None:
        """Return the index of a unit's arm, or None if the unit takes no part: also the unit with an empty id."""
        if not unit or (self.namespace and not self.namespace.contains(unit)):
            return None
        position = bucket(self.seed, unit, self.version)
        if position is None:
            return None
        ranges = bucket_ranges(self.weights, self.coverage)
        return next((i for i, (start, end) in enumerate(ranges) if start <= position < end), None)


def unit_hash(experiment: int, unit: str) -> bytes:
    """Return what stands for a unit in the database: 16 bytes of a SHA-256 that is different in each experiment."""
    return hashlib.sha256(f"{experiment}/{unit}".encode(errors="surrogatepass")).digest()[:16]
