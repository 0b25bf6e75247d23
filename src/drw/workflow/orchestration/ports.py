"""Ports: the durable execution engine, and the HTTP client of steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from drw.egress.ip_ranges import Ip
from drw.kernel.errors import Conflict, InternalError, Unavailable


class LeadershipLost(Conflict):
    """The run has ended, or another process owns it. This process must not record anything more for it."""


RunFunction = Callable[[str], Awaitable[None]]
"""Executes the run with this id. After a crash it is called again, and finds finished steps in the run journal. It
raises `LeadershipLost` if the run must not be recorded as finished."""


class Engine(ABC):
    """Executes runs durably under an executor name. On start it recovers the runs of a dead process of that name."""

    @abstractmethod
    async def start(self, run_function: RunFunction) -> None:
        """Recover unfinished runs. `start_run` may be called afterwards."""

    @abstractmethod
    async def start_run(self, run: str) -> None:
        """Start a run. Idempotent."""

    @abstractmethod
    async def recover_runs(self, executor: str) -> None:
        """Resume the unfinished runs of another executor, which is dead, in any live one. Idempotent."""

    @abstractmethod
    async def cancel_run(self, run: str) -> None:
        """Stop a run permanently."""

    @abstractmethod
    async def forget_runs(self, runs: Sequence[str]) -> None:
        """Delete all records of runs that have ended. Idempotent."""

    @abstractmethod
    def active_runs(self) -> frozenset[str]:
        """Return the runs that this process is executing."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop all runs. The next start recovers them."""


class NotSent(Unavailable):
    """The call did not leave this process, so it had no effect."""


class ResponseTooLarge(InternalError):
    """The answer exceeds the bound, or is compressed. The request may have had its effect."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One HTTP request. Its values were checked; a client sends them as they are."""

    method: str
    scheme: str
    host: str
    port: int
    path: str
    query: str = ""
    """Encoded, without the '?'."""
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """Status, headers and body of an answer. The names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class HttpClient(ABC):
    """Sends one request over a new connection. It follows no redirects, keeps no cookies and uses no proxy."""

    @abstractmethod
    async def exchange(
        self, request: HttpRequest, check_address: Callable[[Ip], None], max_bytes: int, seconds: float
    ) -> HttpAnswer:
        """Return the answer, whatever its status.

        Args:
            request: the request.
            check_address: raises an error for an address that the host must not resolve to. The connection goes to an
                address that it accepted.
            max_bytes: the maximum size of the body.
            seconds: the time limit.

        Raises:
            NotSent: there was no connection to the host.
            Unavailable, DeadlineExceeded: the connection was lost, or the answer did not arrive in time.
            ResponseTooLarge: the body is too large, or compressed.
            InternalError: the answer is not valid HTTP.
        """
