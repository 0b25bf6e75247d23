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
    max_alias_experiments: int = Field(20, ge=1, le=200)
    """Maximum number of running experiments of aliases of one desk."""
    max_alias_experiments_total: int = Field(1000, ge=1, le=2000)
    """Maximum number of running experiments of aliases of all desks: serving holds them in memory."""
    routing_seconds: float = Field(900.0, ge=1, le=86_400)
    """Time for which serving assigns calls while this service is down. Then calls get the models of their alias."""
    consume_seconds: float = Field(0.5, ge=0.01, le=60)
    """Interval in which exposures of calls are read."""
    max_backlog: int = Field(100_000, ge=1)
    """Maximum number of exposures that wait to be read. Above it nothing is assigned until they are read."""
    rollout_seconds: float = Field(5.0, ge=0.05, le=3600)
    """Interval in which running rollouts are checked."""
    outcome_ids_days: int = Field(7, ge=1, le=365)
    """Days for which the id of an outcome prevents a second recording, and for which calls take feedback."""
