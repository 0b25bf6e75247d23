"""Ports: the durable execution engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

from drw.kernel.errors import Conflict


class LeadershipLost(Conflict):
    """The run has ended, or another process owns it. This process must not record anything more for it."""


class Slot(ABC):
    """The position of one step in the engine's record of a run."""

    @abstractmethod
    async def execute_once(self, name: str, function: Callable[[], Awaitable[Any]]) -> Any:
        """Call `function` once and return its result, which must be JSON. On replay, return the recorded result."""


ReserveSlot = Callable[[], Slot]
"""Returns the next slot of a run. The sequence is the same on every replay."""

RunFunction = Callable[[str, ReserveSlot], Awaitable[None]]
"""Executes the run with this id. After a crash it is called again; finished steps are not executed again."""


class Engine(ABC):
    """Executes runs durably under an executor name. On start it recovers the runs of a dead process of that name."""

    @abstractmethod
    async def start(self, run_function: RunFunction) -> None:
        """Recover unfinished runs. `start_run` may be called afterwards."""

    @abstractmethod
    async def start_run(self, run: str) -> None:
        """Start a run. Idempotent."""

    @abstractmethod
    async def cancel_run(self, run: str) -> None:
        """Stop a run permanently."""

    @abstractmethod
    def active_runs(self) -> frozenset[str]:
        """Return the runs that this process is executing."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop all runs. The next start recovers them."""
