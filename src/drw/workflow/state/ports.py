"""What the service needs of the live view of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from drw.api.workflow.v1.state_pb2 import RunEvent


@dataclass(frozen=True, slots=True)
class RunKey:
    """One run of one desk of one org: no other desk's key is ever equal to it."""

    org: str
    desk: str
    run: str


class LiveView(ABC):
    """The events of the runs that somebody may be watching; it may forget any run at any time.

    Every method raises `drw.kernel.errors.Unavailable` where the view does not answer in time.
    """

    @abstractmethod
    async def append(self, key: RunKey, event: RunEvent) -> bool:
        """Add the event behind the one before it; one that is there already stays.

        Returns False where the one before it is not there: the view has forgotten the run.
        """

    @abstractmethod
    async def restore(self, key: RunKey, events: Sequence[RunEvent]) -> None:
        """Add all of these that are not there yet; they begin with the run's first."""

    @abstractmethod
    async def newest(self, key: RunKey) -> RunEvent | None:
        """Return the last event, or None where the view does not know the run."""

    @abstractmethod
    async def after(self, key: RunKey, number: int, seconds: float) -> Sequence[RunEvent]:
        """Return the events behind this number; where there are none, wait so long for one."""

    @abstractmethod
    async def forget_later(self, key: RunKey, seconds: int) -> None:
        """Forget the run in so many seconds."""

    @abstractmethod
    async def ping(self) -> None:
        """Return when the view answers."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of every connection."""
