"""Limits while Valkey is unavailable: each process lets its share of every limit through; never money."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Limit
from drw.billing.counters.client import CountersUnavailable, ReservationRefused
from drw.billing.reservations.errors import quota_error
from drw.billing.subjects import Subject

MINUTE = 60.0
Limits = Sequence[tuple[Subject, Limit]]


class LocalQuota:
    """Counts in this process alone; a window is a minute of its own clock."""

    def __init__(self, processes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._processes = processes
        self._clock = clock
        self._window = 0
        self._used: dict[Subject, int] = {}
        self._requests: dict[Subject, int] = {}
        self._reserved: dict[Subject, int] = {}
        """Tokens of calls under way, whichever window they began in."""
        self._under_way: dict[Subject, int] = {}

    def enter(self, limits: Limits, tokens: int, away: CountersUnavailable) -> None:
        """Admit a call that can take so many tokens.

        Raises:
            CountersUnavailable: one of its limits is set to fail closed.
            LimitReached, ModelAtCapacity: the share is used up.
        """
        self._start_window()
        for subject, limit in limits:
            if limit.when_lost == Limit.FAIL_CLOSED:
                raise away
            if refused := self._refused(subject, limit, tokens):
                raise quota_error(refused, 0, tokens)
        for subject, limit in limits:
            self._reserved[subject] = self._reserved.get(subject, 0) + tokens
            self._under_way[subject] = self._under_way.get(subject, 0) + 1
            if limit.subject == Block.MODEL:
                self._requests[subject] = self._requests.get(subject, 0) + 1

    def leave(self, limits: Limits, reserved: int, used: int) -> None:
        """End a call that was admitted."""
        self._start_window()
        for subject, _ in limits:
            self._under_way[subject] -= 1
            self._reserved[subject] -= reserved
            self._used[subject] = self._used.get(subject, 0) + used

    def _refused(self, subject: Subject, limit: Limit, tokens: int) -> ReservationRefused | None:
        wait = int((MINUTE - self._clock() % MINUTE) * 1000)
        if limit.concurrent and (cap := self._share(limit.concurrent)) <= self._under_way.get(subject, 0):
            return ReservationRefused(subject, "concurrent", "", cap, 0, 0)
        requests = limit.requests_per_minute if limit.subject == Block.MODEL else 0
        if requests and (cap := self._share(requests)) <= self._requests.get(subject, 0):
            return ReservationRefused(subject, "requests", "minute", cap, 0, wait)
        if limit.tokens_per_minute:
            cap = self._share(limit.tokens_per_minute)
            if (left := cap - self._used.get(subject, 0) - self._reserved.get(subject, 0)) < tokens:
                return ReservationRefused(subject, "tokens", "minute", cap, max(0, left), wait)
        return None

    def _share(self, whole: int) -> int:
        return max(1, whole // self._processes)

    def _start_window(self) -> None:
        if (window := int(self._clock() // MINUTE)) != self._window:
            self._window = window
            self._used.clear()
            self._requests.clear()


class QuotaShare:
    """The share of one call; `limits` are all that may come to bind it."""

    def __init__(self, quota: LocalQuota, limits: Limits, tokens: int, away: CountersUnavailable) -> None:
        self._quota = quota
        self._limits = limits
        self.tokens = tokens
        self._away = away
        self._entered: list[tuple[Subject, Limit]] = []

    def enter(self, subjects: Collection[Subject]) -> None:
        """Count the call for these subjects too; see `LocalQuota.enter`."""
        new = [pair for pair in self._limits if pair[0] in subjects and pair not in self._entered]
        self._quota.enter(new, self.tokens, self._away)
        self._entered += new

    def leave(self, used: int) -> None:
        """End the call."""
        self._quota.leave(self._entered, self.tokens, min(used, self.tokens))
