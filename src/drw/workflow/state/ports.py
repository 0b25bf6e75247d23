"""Ports: the live view of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from drw.api.workflow.v1.state_pb2 import RunEvent


@dataclass(frozen=True, slots=True)
class RunKey:
    """The key of a run: org, desk and id."""

    org: str
    desk: str
    run: str


class LiveView(ABC):
    """A cache of recent run events. It may evict any run at any time.

    Every method raises `drw.kernel.errors.Unavailable` if the view does not answer in time.
    """

    @abstractmethod
    async def append(self, key: RunKey, event: RunEvent) -> bool:
        """Append an event after its predecessor. Idempotent.

        Returns False if the predecessor is missing because the run was evicted.
        """

    @abstractmethod
    async def restore(self, key: RunKey, events: Sequence[RunEvent]) -> None:
        """Add the missing ones of these events, which start with the run's first."""

    @abstractmethod
    async def latest(self, key: RunKey) -> RunEvent | None:
        """Return the last event, or None if the view does not have the run."""

    @abstractmethod
    async def events_after(self, key: RunKey, number: int, seconds: float) -> Sequence[RunEvent]:
        """Return the events after this number; if there are none, wait up to the given time."""

    @abstractmethod
    async def expire(self, key: RunKey, seconds: int) -> None:
        """Expire the run after this many seconds."""

    @abstractmethod
    async def ping(self) -> None:
        """Check that the view answers."""

    @abstractmethod
    async def close(self) -> None:
        """Close all connections."""
