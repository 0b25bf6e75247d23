"""Errors of the statistics library.

* ValueError
  x InvalidDesign        (the experiment has no valid analysis as designed)
  x InvalidStatistics    (no data can have these sufficient statistics)
"""

from __future__ import annotations

import math


class InvalidDesign(ValueError):
    """The design of the experiment has no valid analysis; the message says what to change."""


class InvalidStatistics(ValueError):
    """The sufficient statistics contradict themselves or the design."""


MAX_UNITS = 2**53
"""The largest count that a double counts exactly."""


def checked_count(name: str, value: int) -> int:
    """Return a count of units or events.

    Raises:
        InvalidStatistics: the count is no integer, negative, or above 2**53.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidStatistics(f"{name} must be an integer, not {value!r}")
    if not 0 <= value <= MAX_UNITS:
        raise InvalidStatistics(f"{name} must be between 0 and 2**53, not {value!r}")
    return value


def checked_value(name: str, value: float) -> float:
    """Return a finite number.

    Raises:
        InvalidStatistics: the number is NaN or infinite.
    """
    if not math.isfinite(value):
        raise InvalidStatistics(f"{name} must be finite, not {value!r}")
    return float(value)


def checked_probability(name: str, value: float) -> float:
    """Return a probability strictly between 0 and 1.

    Raises:
        InvalidDesign: the number is NaN, or not between 0 and 1.
    """
    if not 0 < value < 1:
        raise InvalidDesign(f"{name} must lie between 0 and 1, both excluded, not {value!r}")
    return float(value)
