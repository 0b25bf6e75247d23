"""Settings of dead letters."""

from __future__ import annotations

from pydantic import Field

from drw.kernel.runtime.settings import Settings as Base


class Settings(Base):
    """Retention of dead letters, and limits of redrives."""

    retention_days: int = Field(default=90, ge=1)
    """Days after which redriven and discarded dead letters are deleted. Open ones are kept."""
    max_active_redrives: int = Field(default=10, ge=1)
    """Maximum active redrives per desk, counted within the caller's walls."""
    probe_timeout_seconds: float = Field(default=900, gt=0)
    """Time within which the probe of a group must succeed."""
    poll_seconds: float = Field(default=0.5, gt=0)
    """Interval at which a redrive reads the state of its probe."""
