"""Outcomes of requests by service, which service level objectives count: good, slow or failed.

A request fails if the platform is the cause: the errors that are a 5xx. Requests that the client gives up, and probes,
are not counted. The latency of an answer is the time to its first byte or message.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter as Counts
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

from prometheus_client import Counter

from drw.catalog import BY_NAME
from drw.kernel.errors import DeadlineExceeded, DrwError, InternalError, Unavailable, Unimplemented

REQUESTS = Counter(
    "drw_service_requests",
    "Requests by outcome: good, slow (above the latency objective) or failed (because of the platform).",
    ["service", "outcome"],
)
GOOD, SLOW, FAILED = "good", "slow", "failed"
INSTANCE = secrets.token_hex(8)
"""Random id of this run of the process."""
PROBES = frozenset({("serving", "Probe")})
"""Methods that only probes call: their answers would hide failures of user requests."""
GIVEN_UP = (asyncio.CancelledError, GeneratorExit)
SERVER_FAULTS = (InternalError, Unavailable, DeadlineExceeded)
SERVER_ERROR = 500

_counts: Counts[tuple[str, str]] = Counts()
_unanswered: Counts[str] = Counts()
_current: ContextVar[RequestOutcome | None] = ContextVar("request_outcome", default=None)


class RequestOutcome:
    """The outcome of one request to a service."""

    __slots__ = ("_answered_at", "_failed", "_service", "_started_at")

    def __init__(self, service: str) -> None:
        self._service = service
        self._started_at = time.perf_counter()
        self._answered_at: float | None = None
        self._failed = False

    def answered(self) -> None:
        """Report the first byte or message of the answer."""
        if self._answered_at is None:
            self._answered_at = time.perf_counter()

    def failed(self, error: BaseException | None = None) -> None:
        """Report a failure; an error that is not the platform's is none."""
        self._failed = self._failed or error is None or is_server_fault(error)

    def end(self, error: BaseException | None = None) -> None:
        """Count the request. One that its client gives up counts only if it was answered or has failed before."""
        answered = self._answered_at is not None
        if isinstance(error, GIVEN_UP):
            if not answered and not self._failed:
                return
        elif error is not None and not (answered and isinstance(error, DeadlineExceeded)):  # streams end at a deadline
            self.failed(error)
        _count(self._service, FAILED if self._failed else self._speed())

    def _speed(self) -> str:
        milliseconds = ((self._answered_at or time.perf_counter()) - self._started_at) * 1000
        return SLOW if milliseconds > BY_NAME[self._service].objective.latency_ms else GOOD


def begin(service: str, method: str) -> RequestOutcome | None:
    """Begin to count a request; None for services and methods without an objective."""
    return RequestOutcome(service) if service in BY_NAME and (service, method) not in PROBES else None


@contextmanager
def counted(service: str, method: str = "") -> Iterator[RequestOutcome | None]:
    """Count the request that the block answers; None for services and methods without an objective."""
    if (outcome := begin(service, method)) is None:
        yield None
        return
    token = _current.set(outcome)
    try:
        yield outcome
    except BaseException as error:
        outcome.end(error)
        raise
    else:
        outcome.end()
    finally:
        _current.reset(token)


def report_failure(error: BaseException) -> None:
    """Report an error that the answer of the current request carries after its first byte."""
    if (outcome := _current.get()) is not None:
        outcome.failed(error)


def count_unanswered(service: str) -> None:
    """Count a request that this process sent to a service, and that no process answered."""
    if service in BY_NAME:
        _unanswered[service] += 1
        _metric(service, FAILED).inc()


def counts(service: str) -> tuple[int, int, int]:
    """Return the good, slow and failed requests of a service since the start of the process."""
    return _counts[service, GOOD], _counts[service, SLOW], _counts[service, FAILED]


def announce(service: str) -> None:
    """Create the series of a service, so that rates begin at 0 before its first failure."""
    for outcome in (GOOD, SLOW, FAILED):
        _metric(service, outcome)


def unanswered() -> dict[str, int]:
    """Return the requests of this process without an answer, by service."""
    return dict(_unanswered)


def is_server_fault(error: BaseException) -> bool:
    """Return whether the platform, not the request, is the cause of an error."""
    if not isinstance(error, DrwError):
        return isinstance(error, Exception)
    return isinstance(error, SERVER_FAULTS) and not isinstance(error, Unimplemented)


def _count(service: str, outcome: str) -> None:
    _counts[service, outcome] += 1
    _metric(service, outcome).inc()


@lru_cache(maxsize=256)
def _metric(service: str, outcome: str) -> Counter:
    return REQUESTS.labels(service, outcome)
