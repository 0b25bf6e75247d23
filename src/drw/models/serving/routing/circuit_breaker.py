"""Circuit breakers: stop requests to a replica that fails repeatedly, then probe it with one request.

After Nygard, "Release It!" (2007). Closed: all requests pass; open: none; half-open: one request probes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import IntEnum

from prometheus_client import Gauge

from drw.kernel.observability.model_labels import model_label
from drw.kernel.runtime.clock import Clock
from drw.models.serving.settings import CircuitSettings

STATE = Gauge("drw_circuit_state", "Of each replica of a model: 0 closed, 1 half-open, 2 open.", ["model", "replica"])


class State(IntEnum):
    """The state of a circuit."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class CircuitBreaker:
    """The circuit of one replica. Only failures of the upstream count.

    A request enters with a ticket and reports its outcome with it. After the circuit has opened, outcomes of requests
    that entered earlier are ignored.
    """

    def __init__(
        self,
        settings: CircuitSettings,
        clock: Clock,
        model: str,
        replica: str,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._on_change = on_change
        self._gauge = STATE.labels(model_label(model), replica)
        self._recent_failures: deque[bool] = deque(maxlen=settings.window)
        self._consecutive_failures = 0
        self._open_count = 0
        """How often failed requests opened the circuit since the last complete answer."""
        self._unconfirmed = False
        self._open_until = 0.0
        self._ticket = 0
        self.state = State.CLOSED
        self._gauge.set(State.CLOSED)

    @property
    def ready_at(self) -> float:
        """When the next request can enter: in the past if now, infinity during a probe."""
        if self.state is State.HALF_OPEN:
            return float("inf")
        return self._open_until if self.state is State.OPEN else 0.0

    @property
    def unconfirmed(self) -> bool:
        """Whether only failed probes opened the circuit: a request may enter if no other replica is ready."""
        return self._unconfirmed and self.state is State.OPEN

    def enter(self) -> int:
        """Enter a circuit that is ready or unconfirmed, as the probe if it is open; return a ticket."""
        if self.state is State.OPEN:
            self._set_state(State.HALF_OPEN)
        return self._ticket

    def first_token(self, ticket: int) -> None:
        """Report the first token: closes the circuit after a probe, but the next failure opens it again."""
        if ticket == self._ticket and self.state is State.HALF_OPEN:
            self._consecutive_failures = self._settings.consecutive_failures - 1
            self._recent_failures.clear()
            self._set_state(State.CLOSED)

    def succeeded(self, ticket: int) -> None:
        """Report a complete answer."""
        if ticket != self._ticket:
            return
        if self.state is State.HALF_OPEN:
            self._recent_failures.clear()
            self._set_state(State.CLOSED)
        self._consecutive_failures = 0
        self._open_count = 0
        self._recent_failures.append(False)

    def failed(self, ticket: int) -> None:
        """Report a failure of the upstream."""
        if ticket != self._ticket:
            return
        self._recent_failures.append(True)
        self._consecutive_failures += 1
        if self.state is State.HALF_OPEN or self._should_open():
            self._open()

    def trip(self, ticket: int) -> None:
        """Open the circuit at once, after a failed probe."""
        if ticket == self._ticket and self.state is not State.OPEN:
            self._open(failed_probe=True)

    def current_ticket(self) -> int:
        """Return the ticket of a check that does not enter the circuit."""
        return self._ticket

    def abandoned(self, ticket: int) -> None:
        """Report a request without an outcome, such as after a disconnect of the caller."""
        if ticket == self._ticket and self.state is State.HALF_OPEN:
            self._set_state(State.OPEN)  # the next request probes

    def _should_open(self) -> bool:
        if self._consecutive_failures >= self._settings.consecutive_failures:
            return True
        window_is_full = len(self._recent_failures) == self._recent_failures.maxlen
        return window_is_full and sum(self._recent_failures) >= self._settings.failure_rate * len(self._recent_failures)

    def _open(self, *, failed_probe: bool = False) -> None:
        seconds = min(self._settings.open_seconds * 2.0 ** min(self._open_count, 16), self._settings.max_open_seconds)
        self._unconfirmed = failed_probe and not self._open_count
        self._open_count += not self._unconfirmed
        self._open_until = self._clock.time() + seconds
        self._recent_failures.clear()
        self._set_state(State.OPEN)

    def _set_state(self, state: State) -> None:
        if state is State.OPEN:
            self._ticket += 1
        self.state = state
        self._gauge.set(state)
        self._on_change()
