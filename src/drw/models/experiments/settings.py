"""Settings of experiments."""

from __future__ import annotations

from pydantic import Field

from drw.kernel.runtime.settings import Settings as Base


class Settings(Base):
    """`[services.experiments]`."""

    max_units: int = Field(1_000_000, ge=1000)
    """Maximum number of exposed units of an experiment."""
    guardrail_seconds: float = Field(30.0, ge=1, le=3600)
    """Interval in which guardrails of running experiments are checked."""
    outcome_ids_days: int = Field(7, ge=1, le=365)
    """Days for which the id of an outcome prevents a second recording."""
