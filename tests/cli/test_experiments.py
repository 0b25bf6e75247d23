"""Intervals of experiments as the command line draws them."""

from __future__ import annotations

import pytest

from drw.cli.models.experiments import BAR_WIDTH, draw


@pytest.mark.parametrize(
    ("lower", "estimate", "upper", "bar"),
    [
        (-1, 0.5, 1, "--------------------|---------o----------"),
        (0.5, 0.75, 1, "                    |         -----o-----"),
        (-1, -0.5, -0.25, "----------o-----    |                    "),
        (0, 0, 0, "                    o                    "),
    ],
)
def test_an_interval_is_drawn_around_no_difference(lower: float, estimate: float, upper: float, bar: str) -> None:
    assert draw(lower, estimate, upper) == bar
    assert len(bar) == BAR_WIDTH
