"""Overhead: the time of a request less the time that it waited for upstreams, clients and queues.

Code that waits uses `waiting`. `begin` starts the account of a request in a context variable, which child tasks
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
    "Time that the platform adds to a model call. edge: Envoy; serving: our own work, the audit record included;"
    " queue: waiting for admission at the model.",
    ["part"],
    buckets=SECONDS,
)
EDGE, SERVING, QUEUE = (OVERHEAD.labels(part) for part in ("edge", "serving", "queue"))

BLOCKED_SECONDS = 0.001
"""A send that takes longer than this waited for a client that reads slowly; a shorter one is our own work."""

What = Literal["upstream", "queue", "client"]


class WaitTime:
    """For how long one request has waited, in seconds. Waits at the same time count each."""

    __slots__ = ("client", "queue", "upstream")

    def __init__(self) -> None:
        self.upstream = 0.0
        self.queue = 0.0
        self.client = 0.0

    def close(self, seconds: float) -> float:
        """Record and return the overhead of a model call of this duration, in seconds."""
        own = max(0.0, seconds - self.upstream - self.queue - self.client)
        SERVING.observe(own)
        if self.queue:
            QUEUE.observe(self.queue)
        return own


_account: ContextVar[WaitTime | None] = ContextVar("account", default=None)


def begin() -> WaitTime:
    """Start the account of the request of this task."""
    account = WaitTime()
    _account.set(account)
    return account


def waited(what: What, seconds: float) -> None:
    """Add waiting time to the current request."""
    if account := _account.get():
        setattr(account, what, getattr(account, what) + seconds)


class waiting:
    """Measure the block as waiting time of the current request."""

    __slots__ = ("_began", "_what")

    def __init__(self, what: What) -> None:
        self._what = what

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        waited(self._what, time.perf_counter() - self._began)
