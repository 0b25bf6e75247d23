"""Ports: the durable execution engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

from drw.kernel.errors import Conflict


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
    def active_runs(self) -> frozenset[str]:
        """Return the runs that this process is executing."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop all runs. The next start recovers them."""
