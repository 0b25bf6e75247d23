"""Settings of the orchestration service."""

from __future__ import annotations

from pydantic import Field

from drw.kernel.runtime.settings import Settings as Base


class Settings(Base):
    """Settings of run execution."""

    executor: str = Field(default="workflow-0", min_length=1, max_length=100)
    """Executor name. Of several processes with the same name, one is active and the others stand by."""
    steps_at_once: int = Field(default=4, ge=1, le=100)
    """Concurrent steps of one run."""
    max_open_runs: int = Field(default=50, ge=1)
    """Unfinished runs per desk, counted within the caller's walls."""
    first_pause_seconds: float = Field(default=0.5, gt=0, le=60)
    """Pause between a step's first and second attempt. It doubles with each attempt, up to 15 s."""
