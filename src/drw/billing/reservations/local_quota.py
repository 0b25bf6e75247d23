"""Local quota: limits while Valkey is unavailable. Each process enforces its share of every limit, never of money."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Limit
from drw.billing.counters.client import CountersUnavailable, ReservationDenied
from drw.billing.reservations.errors import quota_error
from drw.billing.subjects import Subject

MINUTE = 60.0
Limits = Sequence[tuple[Subject, Limit]]


class LocalQuota:
    """Counts the calls of this process in windows of a minute."""

    def __init__(self, processes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._processes = processes
        self._clock = clock
        self._window = 0
        self._used: dict[Subject, int] = {}
        self._requests: dict[Subject, int] = {}
        self._reserved: dict[Subject, int] = {}
        """Tokens of calls in flight, in whichever window they started."""
        self._concurrent: dict[Subject, int] = {}

    def enter(self, limits: Limits, tokens: int, unavailable: CountersUnavailable) -> None:
        """Admit a call that can use so many tokens.

        Raises:
            CountersUnavailable: one of its limits is set to fail closed.
            LimitReached, ModelAtCapacity: the share is exhausted.
        """
        self._start_window()
        for subject, limit in limits:
            if limit.when_lost == Limit.FAIL_CLOSED:
                raise unavailable
            if denial := self._denial(subject, limit, tokens):
                raise quota_error(denial, 0, tokens)
        for subject, limit in limits:
            self._reserved[subject] = self._reserved.get(subject, 0) + tokens
            self._concurrent[subject] = self._concurrent.get(subject, 0) + 1
            if limit.subject == Block.MODEL:
                self._requests[subject] = self._requests.get(subject, 0) + 1

    def leave(self, limits: Limits, reserved: int, used: int) -> None:
        """End a call that was admitted."""
        self._start_window()
        for subject, _ in limits:
            self._concurrent[subject] -= 1
            self._reserved[subject] -= reserved
            self._used[subject] = self._used.get(subject, 0) + used

    def _denial(self, subject: Subject, limit: Limit, tokens: int) -> ReservationDenied | None:
        wait_ms = int((MINUTE - self._clock() % MINUTE) * 1000)
        if limit.concurrent and (cap := self._share(limit.concurrent)) <= self._concurrent.get(subject, 0):
            return ReservationDenied(subject, "concurrent", "", cap, 0, 0)
        requests = limit.requests_per_minute if limit.subject == Block.MODEL else 0
        if requests and (cap := self._share(requests)) <= self._requests.get(subject, 0):
            return ReservationDenied(subject, "requests", "minute", cap, 0, wait_ms)
        if limit.tokens_per_minute:
            cap = self._share(limit.tokens_per_minute)
            if (left := cap - self._used.get(subject, 0) - self._reserved.get(subject, 0)) < tokens:
                return ReservationDenied(subject, "tokens", "minute", cap, max(0, left), wait_ms)
        return None

    def _share(self, limit: int) -> int:
        return max(1, limit // self._processes)

    def _start_window(self) -> None:
        if (window := int(self._clock() // MINUTE)) != self._window:
            self._window = window
            self._used.clear()
            self._requests.clear()


class QuotaShare:
    """Quota of one call; `limits` are all limits that can apply to it."""

    def __init__(self, quota: LocalQuota, limits: Limits, tokens: int, unavailable: CountersUnavailable) -> None:
        self._quota = quota
        self._limits = limits
        self.tokens = tokens
        self._unavailable = unavailable
        self._entered: list[tuple[Subject, Limit]] = []

    def enter(self, subjects: Collection[Subject]) -> None:
        """Count the call for these subjects in addition; see `LocalQuota.enter`."""
        new = [pair for pair in self._limits if pair[0] in subjects and pair not in self._entered]
        self._quota.enter(new, self.tokens, self._unavailable)
        self._entered += new

    def leave(self, used: int) -> None:
        """End the call."""
        self._quota.leave(self._entered, self.tokens, min(used, self.tokens))
