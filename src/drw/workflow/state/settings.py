"""Settings of the live view."""

from __future__ import annotations

from drw.kernel.runtime.settings import Settings as Base


class Settings(Base):
    """Times in seconds."""

    keep_ended_seconds: int = 24 * 3600
    """Time that the live view keeps an ended run. Later watchers restore it from the event log."""
    appear_seconds: float = 3.0
    """Time to wait for an unknown run to appear, because its first event may still be in the outbox."""
    quiet_seconds: float = 15.0
    """Interval of keep-alive messages on a stream without events."""
    wait_seconds: float = 2.0
    """Time-out of a query to the live view."""
