"""What each process lets through by itself while Valkey is away: its share of every limit, never money."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Limit
from drw.kernel.metering.counters import CountersAway, Refused
from drw.kernel.metering.subjects import Subject
from drw.models.serving.quota import refusal

MINUTE = 60.0
Limits = Sequence[tuple[Subject, Limit]]


class Shares:
    """Counts in this process alone; a window is a minute of its own clock."""

    def __init__(self, processes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._processes = processes
        self._clock = clock
        self._window = 0
        self._tokens: dict[Subject, int] = {}
        self._requests: dict[Subject, int] = {}
        self._under_way: dict[Subject, int] = {}

    def enter(self, limits: Limits, tokens: int, away: CountersAway) -> None:
        """Let a call in that may take so many tokens.

        Raises:
            CountersAway: one of its limits says that nothing passes without the counters.
            LimitReached: the share is used up.
        """
        self._turn()
        for subject, limit in limits:
            if limit.when_lost == Limit.FAIL_CLOSED:
                raise away
            if refused := self._refused(subject, limit, tokens):
                raise refusal(refused, 0, tokens)
        for subject, limit in limits:
            self._tokens[subject] = self._tokens.get(subject, 0) + tokens
            self._under_way[subject] = self._under_way.get(subject, 0) + 1
            if limit.subject == Block.MODEL:
                self._requests[subject] = self._requests.get(subject, 0) + 1

    def leave(self, limits: Limits, reserved: int, used: int) -> None:
        """End a call that was let in."""
        for subject, _ in limits:
            self._under_way[subject] = max(0, self._under_way.get(subject, 0) - 1)
            self._tokens[subject] = max(0, self._tokens.get(subject, 0) - reserved + used)

    def _refused(self, subject: Subject, limit: Limit, tokens: int) -> Refused | None:
        wait = int((MINUTE - self._clock() % MINUTE) * 1000)
        if limit.concurrent and (cap := self._share(limit.concurrent)) <= self._under_way.get(subject, 0):
            return Refused(subject, "concurrent", "", cap, 0, 0)
        requests = limit.requests_per_minute if limit.subject == Block.MODEL else 0
        if requests and (cap := self._share(requests)) <= self._requests.get(subject, 0):
            return Refused(subject, "requests", "minute", cap, 0, wait)
        if limit.tokens_per_minute:
            cap = self._share(limit.tokens_per_minute)
            if (left := cap - self._tokens.get(subject, 0)) < tokens:
                return Refused(subject, "tokens", "minute", cap, max(0, left), wait)
        return None

    def _share(self, whole: int) -> int:
        return max(1, whole // self._processes)

    def _turn(self) -> None:
        if (window := int(self._clock() // MINUTE)) != self._window:
            self._window = window
            self._tokens.clear()
            self._requests.clear()
