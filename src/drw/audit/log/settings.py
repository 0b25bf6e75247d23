"""Settings of the audit log."""

from __future__ import annotations

from pydantic import Field

from drw.kernel.runtime.settings import Settings as Base


class Settings(Base):
    """Settings of the audit log."""

    origin: str = Field("drw.local/audit", min_length=1, max_length=200, pattern=r"^[^\s+]+$")
    """The log's name, in its key and its checkpoints; it cannot change."""
    gather_seconds: float = Field(1.0, ge=0, le=60)
    """Interval for signing new audit records."""
