"""How often and how soon a request is sent again: a budget over all requests, waits that double, and some chance."""

from __future__ import annotations

from random import Random

from drw.kernel.runtime.clock import Clock
from drw.models.serving.settings import RetrySettings


class RetryBudget:
    """The retries of one process. A move to another model is none: it meets no model twice."""

    SECONDS = 10.0
    """So many seconds of the floor may be saved up."""

    def __init__(self, settings: RetrySettings, clock: Clock, random: Random) -> None:
        self.settings = settings
        self._clock = clock
        self._random = random
        self._max = max(1.0, settings.budget_floor * self.SECONDS) + 100 * settings.budget_ratio
        self._left = settings.budget_floor * self.SECONDS
        self._filled: float | None = None

    def request(self) -> None:
        """Take note of a request, which earns its part of a retry."""
        self._left = min(self._max, self._left + self.settings.budget_ratio)

    def spend(self) -> bool:
        """Take a retry out of the budget; return whether there was one."""
        now = self._clock.time()
        if self._filled is not None:
            earned = (now - self._filled) * self.settings.budget_floor
            self._left = min(self._max, self._left + earned)
        self._filled = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def wait(self, attempts: int) -> float:
        """Return the seconds before the next attempt, after so many: half of it by chance, so that callers spread."""
        longest = self.settings.first_wait_seconds * 2.0 ** min(attempts - 1, 16)
        return min(longest, self.settings.max_wait_seconds) * (0.5 + self._random.random() / 2)
