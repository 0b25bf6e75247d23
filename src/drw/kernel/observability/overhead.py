"""Overhead of a request: its duration minus the time that it waited for upstreams, clients and queues.

Code that waits uses `waiting`. `begin` stores the wait time of a request in a context variable, which child tasks
inherit.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from types import TracebackType
from typing import Literal

from prometheus_client import Histogram

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
OVERHEAD = Histogram(
    "drw_overhead_seconds",
    "Time that the platform adds to a model call. edge: Envoy; serving: the service, including the audit record;"
    " queue: waiting for admission at the model.",
    ["part"],
    buckets=SECONDS,
)
EDGE, SERVING, QUEUE = (OVERHEAD.labels(part) for part in ("edge", "serving", "queue"))

BLOCKED_SECONDS = 0.001
"""A longer send counts as waiting for a slow client, a shorter one as overhead."""

WaitKind = Literal["upstream", "queue", "client"]


class WaitTime:
    """Seconds that one request has waited. Concurrent waits are added up."""

    __slots__ = ("client", "queue", "upstream")

    def __init__(self) -> None:
        self.upstream = 0.0
        self.queue = 0.0
        self.client = 0.0

    def record(self, seconds: float) -> float:
        """Record and return the overhead of a model call of this duration, in seconds."""
        overhead = max(0.0, seconds - self.upstream - self.queue - self.client)
        SERVING.observe(overhead)
        if self.queue:
            QUEUE.observe(self.queue)
        return overhead


_current: ContextVar[WaitTime | None] = ContextVar("account", default=None)


def begin() -> WaitTime:
    """Start to measure the wait time of the request of this task."""
    wait_time = WaitTime()
    _current.set(wait_time)
    return wait_time


def add_wait(kind: WaitKind, seconds: float) -> None:
    """Add waiting time to the current request."""
    if wait_time := _current.get():
        setattr(wait_time, kind, getattr(wait_time, kind) + seconds)


class waiting:
    """Measure the block as waiting time of the current request."""

    __slots__ = ("_kind", "_started")

    def __init__(self, kind: WaitKind) -> None:
        self._kind = kind

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        add_wait(self._kind, time.perf_counter() - self._started)
