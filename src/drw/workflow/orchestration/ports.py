"""Ports: the durable execution engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

from drw.kernel.errors import Conflict


class LeadershipLost(Conflict):
    """The run has ended, or another process owns it. This process may record nothing more."""


class Slot(ABC):
    """The position of one step in the engine's record of a run."""

    @abstractmethod
    async def once(self, name: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """Run `work` once and return its result, which must be JSON. On replay, return the recorded result."""


Reserve = Callable[[], Slot]
"""Returns the next slot of a run. The sequence is the same on every replay."""

Work = Callable[[str, Reserve], Awaitable[None]]
"""Executes the run with this id. It is called again after a crash; finished steps are not."""


class Engine(ABC):
    """Executes work durably under a name. On start it recovers the work of a dead process of that name."""

    @abstractmethod
    async def start(self, work: Work) -> None:
        """Recover unfinished work. `begin` may be called afterwards."""

    @abstractmethod
    async def begin(self, run: str) -> None:
        """Start a run. Idempotent."""

    @abstractmethod
    async def cancel(self, run: str) -> None:
        """Stop a run permanently."""

    @abstractmethod
    def under_way(self) -> frozenset[str]:
        """Return the runs that this process is executing."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop all work. The next start recovers it."""
