"""Settings of the live view."""

from __future__ import annotations

from drw.kernel.runtime.settings import Settings as Base


class Settings(Base):
    """Retention and time-outs of the live view."""

    retention_seconds: int = 24 * 3600
    """Time that the live view keeps an ended run. Later watchers restore it from the event log."""
    lookup_timeout_seconds: float = 3.0
    """Time to wait for an unknown run to appear, because its first event may still be in the outbox."""
    keepalive_seconds: float = 15.0
    """Interval of keep-alive messages on a stream without events."""
    poll_timeout_seconds: float = 2.0
    """Time-out of a query to the live view."""
