"""Circuit breakers: what fails again and again is left alone for a while, then tried by one request.

After Nygard, "Release It!" (2007): closed, everything passes; open, nothing does; half-open, one request probes.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum

from prometheus_client import Gauge

from drw.kernel.runtime.clock import Clock
from drw.models.serving.settings import CircuitSettings

STATE = Gauge("drw_circuit_state", "Of each replica of a model: 0 closed, 1 half-open, 2 open.", ["model", "replica"])


class State(IntEnum):
    """How a circuit is."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class CircuitBreaker:
    """The circuit of one replica. Only failures that are the upstream's own fault count.

    Whoever enters gets a ticket, and tells of the outcome with it: once the circuit has opened, what entered before
    says nothing of how the upstream is now.
    """

    def __init__(self, settings: CircuitSettings, clock: Clock, model: str, replica: str) -> None:
        self._settings = settings
        self._clock = clock
        self._gauge = STATE.labels(model, replica)
        self._failed: deque[bool] = deque(maxlen=settings.window)
        self._in_a_row = 0
        self._opened = 0
        """How often in a row it opened without a whole answer in between."""
        self._opens_until = 0.0
        self._ticket = 0
        self.state = State.CLOSED
        self._gauge.set(State.CLOSED)

    @property
    def ready_at(self) -> float:
        """When it lets somebody through: in the past where it would now, infinity while a probe is under way."""
        if self.state is State.HALF_OPEN:
            return float("inf")
        return self._opens_until if self.state is State.OPEN else 0.0

    def enter(self) -> int:
        """Let a request through, as the probe where the circuit is open. Only for circuits that are ready."""
        if self.state is State.OPEN:
            self._turn(State.HALF_OPEN)
        return self._ticket

    def answering(self, ticket: int) -> None:
        """Take note of a probe's first token: the circuit closes, on trial until an answer is whole."""
        if ticket == self._ticket and self.state is State.HALF_OPEN:
            self._in_a_row = self._settings.consecutive_failures - 1
            self._failed.clear()
            self._turn(State.CLOSED)

    def succeeded(self, ticket: int) -> None:
        """Take note of a whole answer."""
        if ticket != self._ticket:
            return
        if self.state is State.HALF_OPEN:
            self._failed.clear()
            self._turn(State.CLOSED)
        self._in_a_row = 0
        self._opened = 0
        self._failed.append(False)

    def failed(self, ticket: int) -> None:
        """Take note of a failure."""
        if ticket != self._ticket:
            return
        self._failed.append(True)
        self._in_a_row += 1
        if self.state is State.HALF_OPEN or self._too_many():
            self._open()

    def left(self, ticket: int) -> None:
        """Take note of a request that ended without telling anything, as when the caller left."""
        if ticket == self._ticket and self.state is State.HALF_OPEN:
            self._turn(State.OPEN)  # the next request probes

    def _too_many(self) -> bool:
        if self._in_a_row >= self._settings.consecutive_failures:
            return True
        full = len(self._failed) == self._failed.maxlen
        return full and sum(self._failed) >= self._settings.failure_rate * len(self._failed)

    def _open(self) -> None:
        seconds = min(self._settings.open_seconds * 2.0 ** min(self._opened, 16), self._settings.max_open_seconds)
        self._opened += 1
        self._opens_until = self._clock.time() + seconds
        self._failed.clear()
        self._turn(State.OPEN)

    def _turn(self, state: State) -> None:
        if state is State.OPEN:
            self._ticket += 1
        self.state = state
        self._gauge.set(state)
