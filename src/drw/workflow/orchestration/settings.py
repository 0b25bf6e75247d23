"""Settings of runs."""

from __future__ import annotations

from pydantic import Field

from drw.kernel.runtime.settings import Settings as Base


class Settings(Base):
    """How runs are carried out."""

    executor: str = Field(default="workflow-0", min_length=1, max_length=100)
    """The name under which runs are carried out. Of several processes of one name one works, the others stand by."""
    steps_at_once: int = Field(default=4, ge=1, le=100)
    """Of one run."""
    max_open_runs: int = Field(default=50, ge=1)
    """Runs of one desk that have not ended, as many as a caller sees of them."""
    first_pause_seconds: float = Field(default=0.5, gt=0, le=60)
    """Between a step's first attempt and its second; each further pause is twice as long, up to 15 s."""
