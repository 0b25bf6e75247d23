"""Assignment of units: GrowthBook's public vectors, bucket ranges, coverage, namespaces."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from drw.routing.assignment import Allocation, InvalidAllocation, Namespace, bucket, bucket_ranges

# Seed, unit, version, position: growthbook/growthbook, packages/sdk-js/test/cases.json, section "hash".
VECTORS = [
    ("", "a", 1, 0.22),
    ("", "b", 1, 0.077),
    ("b", "a", 1, 0.946),
    ("ef", "d", 1, 0.652),
    ("asdf", "8952klfjas09ujk", 1, 0.549),
    ("", "123", 1, 0.011),
    ("", '___)((*":&', 1, 0.563),
    ("seed", "a", 2, 0.0505),
    ("seed", "b", 2, 0.2696),
    ("foo", "ab", 2, 0.2575),
    ("foo", "def", 2, 0.2019),
    ("89123klj", "8952klfjas09ujkasdf", 2, 0.124),
    ("90850943850283058242805", "123", 2, 0.7516),
    ("()**(%$##$%#$#", '___)((*":&', 2, 0.0128),
    ("abc", "def", 99, None),
]


@pytest.mark.parametrize(("seed", "unit", "version", "expected"), VECTORS)
def test_the_hash_equals_its_public_vectors(seed: str, unit: str, version: int, expected: float | None) -> None:
    assert bucket(seed, unit, version) == expected


def test_characters_beyond_the_basic_plane_hash_as_two_utf_16_code_units() -> None:
    def fnv(codes: list[int]) -> int:
        value = 2166136261
        for code in codes:
            value = (value ^ code) * 16777619 % 2**32
        return value

    first = fnv([ord("s"), 0xD83D, 0xDE00])  # U+1F600
    assert bucket("s", "\U0001f600") == fnv([ord(digit) for digit in str(first)]) % 10000 / 10000


def test_a_lone_surrogate_has_a_position() -> None:
    assert bucket("s", "\ud83d") is not None


@pytest.mark.parametrize(
    ("weights", "coverage", "expected"),
    [
        ((0.5, 0.5), 1.0, [(0, 0.5), (0.5, 1)]),
        ((0.5, 0.5), 0.5, [(0, 0.25), (0.5, 0.75)]),
        ((0.4, 0.6), 1.0, [(0, 0.4), (0.4, 1)]),
        ((0.333333,) * 3, 0.2, [(0, 0.066667), (0.333333, 0.4), (0.666666, 0.733333)]),
        ((0.5, 0.5), 0.0, [(0, 0), (0.5, 0.5)]),
    ],
)
def test_ranges_follow_weights_and_coverage(
    weights: tuple[float, ...], coverage: float, expected: list[tuple[float, float]]
) -> None:
    ranges = bucket_ranges(weights, coverage)
    assert [tuple(round(x, 6) for x in each) for each in ranges] == expected


@pytest.mark.parametrize(
    ("weights", "coverage"),
    [
        ((0.5, 0.4), 1.0),
        ((0.5, 0.6), 1.0),
        ((-0.5, 1.5), 1.0),
        ((math.nan, 1.0), 1.0),
        ((math.inf, 0.5), 1.0),
        ((0.5, 0.5), -0.1),
        ((0.5, 0.5), 1.1),
        ((0.5, 0.5), math.nan),
        ((), 1.0),
    ],
)
def test_invalid_weights_and_coverage_are_refused(weights: tuple[float, ...], coverage: float) -> None:
    with pytest.raises(InvalidAllocation):
        Allocation("s", weights, coverage)


def test_an_unknown_version_of_the_hash_is_refused() -> None:
    with pytest.raises(InvalidAllocation, match="must be 1 or 2, not 3"):
        Allocation("s", (0.5, 0.5), version=3)


@pytest.mark.parametrize(("start", "end"), [(0.5, 0.4), (-0.1, 0.5), (0.5, 1.1), (math.nan, 1.0)])
def test_an_invalid_namespace_is_refused(start: float, end: float) -> None:
    with pytest.raises(InvalidAllocation):
        Namespace("n", start, end)


def test_units_follow_the_weights() -> None:
    allocation = Allocation("exp", (0.2, 0.3, 0.5))
    counts = Counter(allocation.arm(f"user-{i}") for i in range(20_000))
    assert set(counts) == {0, 1, 2}
    for arm, weight in enumerate(allocation.weights):
        assert abs(counts[arm] / 20_000 - weight) < 4 * math.sqrt(weight * (1 - weight) / 20_000)


def test_more_coverage_moves_no_unit_between_arms() -> None:
    users = [f"user-{i}" for i in range(2_000)]
    some, all_ = Allocation("exp", (0.5, 0.5), 0.3), Allocation("exp", (0.5, 0.5))
    covered = [user for user in users if some.arm(user) is not None]
    assert 500 < len(covered) < 700
    assert all(some.arm(user) == all_.arm(user) for user in covered)
    assert all(all_.arm(user) is not None for user in users)


def test_disjoint_ranges_of_a_namespace_share_no_unit() -> None:
    first = Allocation("a", (0.5, 0.5), namespace=Namespace("n", 0.0, 0.4))
    second = Allocation("b", (0.5, 0.5), namespace=Namespace("n", 0.4, 1.0))
    both = [(first.arm(f"u{i}") is not None, second.arm(f"u{i}") is not None) for i in range(1_000)]
    assert set(both) == {(True, False), (False, True)}


def test_a_namespace_uses_version_1_of_the_hash_with_a_prefix() -> None:
    position = bucket("__n", "u1", 1)
    assert position is not None
    assert Namespace("n", position, 1.0).contains("u1")
    assert not Namespace("n", 0.0, position).contains("u1")


def test_assignments_with_different_seeds_are_independent() -> None:
    first, second = Allocation("a", (0.5, 0.5)), Allocation("b", (0.5, 0.5))
    counts = Counter((first.arm(f"u{i}"), second.arm(f"u{i}")) for i in range(8_000))
    assert all(abs(count - 2_000) < 4 * math.sqrt(8_000 * 3 / 16) for count in counts.values())


def test_an_empty_unit_takes_no_part() -> None:
    assert Allocation("a", (0.5, 0.5)).arm("") is None
