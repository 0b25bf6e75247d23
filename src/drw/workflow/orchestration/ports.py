"""What the service needs of a durable engine: work that goes on where it stood, after any crash."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

from drw.kernel.errors import Conflict


class LeadershipLost(Conflict):
    """The run is over, or another process has taken it: nothing more may be recorded for this one."""


class Slot(ABC):
    """The place of one step in the engine's record of a run."""

    @abstractmethod
    async def once(self, name: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """Return what `work` gives, which must be JSON; where it has ended before, what it gave then."""


Reserve = Callable[[], Slot]
"""Gives the next slot of a run: the first call is always the same slot, so is the second, ..."""

Work = Callable[[str, Reserve], Awaitable[None]]
"""Carries out the run of this id. After a crash it is called again, and its ended steps are not."""


class Engine(ABC):
    """Runs work durably under one name: what a dead process of that name left is taken up at the start."""

    @abstractmethod
    async def start(self, work: Work) -> None:
        """Take up what was left; from now on `begin` may be called."""

    @abstractmethod
    async def begin(self, run: str) -> None:
        """Begin the work of a run; a run that has been begun is not begun twice."""

    @abstractmethod
    async def cancel(self, run: str) -> None:
        """Stop the work of a run for good."""

    @abstractmethod
    def under_way(self) -> frozenset[str]:
        """Return the runs whose work goes on in this process."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop all work where it stands; the next start takes it up."""
