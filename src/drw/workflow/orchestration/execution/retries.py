"""Retry policy of failed attempts."""

from __future__ import annotations

import random

from drw.kernel.errors import DrwError

LONGEST_SECONDS = 15.0
LONGEST_ASKED_FOR_SECONDS = 60.0


def pause(error: DrwError, attempts: int, max_attempts: int, first_seconds: float) -> float | None:
    """Return the seconds to wait before the next attempt, or None for no retry.

    Exponential backoff from `first_seconds` to 15 s with 20 % jitter. A service's Retry-After is honoured, up to
    a minute.
    """
    if not error.retryable or attempts >= max_attempts:
        return None
    doubled = min(LONGEST_SECONDS, first_seconds * 2.0 ** (attempts - 1)) * random.uniform(0.8, 1.2)
    return max(doubled, _asked_for(error))


def _asked_for(error: DrwError) -> float:
    try:
        return min(LONGEST_ASKED_FOR_SECONDS, max(0.0, float(error.metadata.get("retry_after", "0"))))
    except ValueError:
        return 0.0
