"""Settings of the stream of events."""

from __future__ import annotations

from pydantic import Field

from drw.kernel.runtime.settings import Settings as Base


class Settings(Base):
    """Retention and bounds of the stream of events."""

    retention_days: int = Field(default=7, ge=1, le=365)
    """How long operators can read past events."""
    max_events: int = Field(default=1_000_000, ge=1_000)
    """Maximum retained events; the oldest are deleted first."""
    max_tails_per_org: int = Field(default=20, ge=1, le=1_000)
    """Maximum open streams of the callers of one org."""
    max_tail_seconds: float = Field(default=600.0, gt=0, le=3600)
    """Maximum duration of a stream. Clients continue with the id of the last event."""
    keepalive_seconds: float = 15.0
    """Interval of keep-alive messages on a stream without events."""
