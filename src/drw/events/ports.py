"""Port of the event bus: publishes events in order, and delivers them to consumers at least once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drw.events.event import Event


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that a consumer received."""

    event: Event | None
    """None: the message is malformed."""
    raw: bytes
    """The message as it was received, if it is malformed."""
    token: Any
    """What the adapter acknowledges."""


class Subscription(ABC):
    """The messages of one consumer. The consumer acknowledges a batch before it fetches the next one.

    Every method raises `drw.kernel.errors.Unavailable` if the broker does not answer in time; then the consumer
    subscribes again, and receives unacknowledged messages again, in order.
    """

    @abstractmethod
    async def fetch(self, seconds: float) -> Sequence[Delivery]:
        """Return the next messages, in order per key; if there are none within `seconds`, an empty list."""

    @abstractmethod
    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge all messages of the last batch."""

    @abstractmethod
    async def close(self) -> None:
        """Stop receiving. Unacknowledged messages go to the next subscription of this consumer."""


class EventBus(ABC):
    """A broker.

    Every method raises `drw.kernel.errors.Unavailable` if the broker does not answer in time.
    """

    durable: bool
    """Whether the broker keeps accepted events if its processes restart."""

    @abstractmethod
    async def publish(self, events: Sequence[Event]) -> None:
        """Publish events, in order per key.

        On an error, any of the events may have been published, but of each key only the first ones: the caller
        publishes all of them again, and consumers ignore the duplicates.
        """

    @abstractmethod
    async def subscribe(self, consumer: str) -> Subscription:
        """Return the subscription of a consumer. All processes of a consumer share its events.

        A new consumer receives all events that the broker retains.
        """

    @abstractmethod
    async def generation(self) -> str:
        """Return an id that changes when the broker loses its events; empty: it never does."""

    @abstractmethod
    async def close(self) -> None:
        """Close all connections."""
