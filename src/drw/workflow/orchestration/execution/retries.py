"""Retry policy of failed attempts."""

from __future__ import annotations

import random

from drw.kernel.errors import DrwError

MAX_BACKOFF_SECONDS = 15.0
MAX_RETRY_AFTER_SECONDS = 60.0


def retry_delay(error: DrwError, attempts: int, max_attempts: int, initial_seconds: float) -> float | None:
    """Return the seconds to wait before the next attempt, or None for no retry.

    Exponential backoff from `initial_seconds` to 15 s with 20 % jitter. A service's Retry-After is honoured, up to
    a minute.
    """
    if not error.retryable or attempts >= max_attempts:
        return None
    backoff = min(MAX_BACKOFF_SECONDS, initial_seconds * 2.0 ** (attempts - 1)) * random.uniform(0.8, 1.2)
    return max(backoff, _retry_after(error))


def _retry_after(error: DrwError) -> float:
    try:
        return min(MAX_RETRY_AFTER_SECONDS, max(0.0, float(error.metadata.get("retry_after", "0"))))
    except ValueError:
        return 0.0
