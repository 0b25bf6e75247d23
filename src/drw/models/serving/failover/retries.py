"""Retry budget of all requests, and exponential backoff with jitter."""

from __future__ import annotations

from random import Random

from drw.kernel.runtime.clock import Clock
from drw.models.serving.settings import RetrySettings


class RetryBudget:
    """The retry budget of one process. Failover to another model is not a retry."""

    MAX_FLOOR_SECONDS = 10.0
    """Maximum seconds of `budget_floor` that accumulate."""

    def __init__(self, settings: RetrySettings, clock: Clock, random: Random) -> None:
        self.settings = settings
        self._clock = clock
        self._random = random
        self._capacity = max(1.0, settings.budget_floor * self.MAX_FLOOR_SECONDS) + 100 * settings.budget_ratio
        self._tokens = settings.budget_floor * self.MAX_FLOOR_SECONDS
        self._refilled_at: float | None = None

    def add_request(self) -> None:
        """Add the share of one request to the budget."""
        self._tokens = min(self._capacity, self._tokens + self.settings.budget_ratio)

    def spend(self) -> bool:
        """Take one retry from the budget; return False if it is exhausted."""
        now = self._clock.time()
        if self._refilled_at is not None:
            earned = (now - self._refilled_at) * self.settings.budget_floor
            self._tokens = min(self._capacity, self._tokens + earned)
        self._refilled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def backoff(self, attempts: int) -> float:
        """Return the backoff in seconds after this many attempts, with jitter of up to a half."""
        longest = self.settings.first_wait_seconds * 2.0 ** min(attempts - 1, 16)
        return min(longest, self.settings.max_wait_seconds) * (0.5 + self._random.random() / 2)
