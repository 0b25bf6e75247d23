"""Retry policy of failed attempts, by class of failure."""

from __future__ import annotations

import random

from drw.api.workflow.v1.orchestration_pb2 import BUDGET, TRANSIENT, FailureClass
from drw.kernel.errors import DrwError

MAX_BACKOFF_SECONDS = 15.0
MAX_RETRY_AFTER_SECONDS = 900.0
"""The longest Retry-After that a step waits for. Otherwise it fails, and the run can be redriven."""
JITTER = 0.2


def retry_delay(
    error: DrwError,
    failure_class: FailureClass,
    attempts: int,
    max_attempts: int,
    initial_seconds: float,
) -> float | None:
    """Return the seconds to wait before the next attempt, or None for no retry.

    A transient failure: exponential backoff from `initial_seconds` to 15 s with 20 % jitter, and at least Retry-After.
    An exhausted budget: Retry-After, if the budget is renewed within 15 minutes. Other classes are not retried.
    """
    wait = _retry_after(error)
    if attempts >= max_attempts or wait > MAX_RETRY_AFTER_SECONDS:
        return None
    if failure_class == TRANSIENT:
        backoff = min(MAX_BACKOFF_SECONDS, initial_seconds * 2.0 ** (attempts - 1))
        return max(backoff * random.uniform(1 - JITTER, 1 + JITTER), wait * random.uniform(1, 1 + JITTER))
    return wait * random.uniform(1, 1 + JITTER) if failure_class == BUDGET and wait else None


def _retry_after(error: DrwError) -> float:
    try:
        return max(0.0, float(error.metadata.get("retry_after", "0")))
    except ValueError:
        return 0.0
