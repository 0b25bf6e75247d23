"""The e-BH procedure against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from drw.models.experiments.statistics.errors import InvalidDesign, InvalidStatistics
from drw.models.experiments.statistics.multiple_testing import e_bh


def by_definition(e_values: list[float], alpha: float) -> list[bool]:
    total = len(e_values)
    ranked = sorted(e_values, reverse=True)
    largest = max((k for k in range(1, total + 1) if ranked[k - 1] >= total / (alpha * k)), default=0)
    return [largest > 0 and e >= total / (alpha * largest) for e in e_values]


def test_random_e_values_follow_the_definition() -> None:
    random = np.random.default_rng(7)
    sizes = []
    for _ in range(300):
        e_values = np.exp(random.uniform(0, 8, random.integers(1, 12))).tolist()
        found = e_bh([math.log(e) for e in e_values], 0.05)
        assert list(found) == by_definition(e_values, 0.05)
        sizes.append(sum(found))
    assert {0, 1, 2, 3} < set(sizes)


def test_one_hypothesis_is_rejected_at_one_over_alpha() -> None:
    assert e_bh([math.log(20)], 0.05) == (True,)
    assert e_bh([math.log(19.99)], 0.05) == (False,)


def test_no_hypotheses_and_infinite_evidence_are_decided() -> None:
    assert e_bh([], 0.05) == ()
    assert e_bh([math.inf, -math.inf], 0.05) == (True, False)


def test_invalid_input_is_refused() -> None:
    with pytest.raises(InvalidStatistics, match="NaN"):
        e_bh([math.nan], 0.05)
    with pytest.raises(InvalidDesign, match="alpha"):
        e_bh([1.0], 0.0)
