"""Settings of the health service."""

from __future__ import annotations

from pydantic import Field

from drw.kernel.runtime.settings import Settings as Base


class ProbeSettings(Base):
    """`[services.health.probes]`: tiny requests to models; times are in seconds."""

    interval_seconds: float = Field(default=60.0, ge=0, le=86_400)
    """Time between two probes of a model. 0: models are not probed."""
    jitter: float = Field(default=0.2, ge=0, le=1)
    """Share by which an interval is longer or shorter at random, so that probes do not coincide."""
    retry_seconds: float = Field(default=10.0, gt=0, le=86_400)
    """Time until the next probe of a model with a replica that does not work."""
    timeout_seconds: float = Field(default=10.0, gt=0, le=60)
    """Time limit of the first token."""
    fresh_seconds: float = Field(default=60.0, ge=0, le=86_400)
    """A replica that served a request in this time is not probed."""
    max_concurrent: int = Field(default=4, ge=1, le=64)
    """Maximum models that are probed at the same time."""
    exclude: tuple[str, ...] = Field(default=(), max_length=1000)
    """Models that are not probed, such as upstreams that charge each request."""


class HistorySettings(Base):
    """`[services.health.history]`: what is stored, and for how long."""

    minute_days: int = Field(default=2, ge=1, le=30)
    """Days for which the requests of each minute are stored."""
    hour_days: int = Field(default=35, ge=31, le=1000)
    """Days for which the requests of each hour are stored."""
    transition_days: int = Field(default=90, ge=1, le=3650)
    """Days for which changes of state are stored."""
    max_transitions: int = Field(default=1000, ge=10, le=100_000)
    """Maximum stored changes of state of one service or replica; the oldest are deleted."""
    max_transitions_per_hour: int = Field(default=60, ge=1, le=10_000)
    """Changes of state of one service or replica in an hour, after which further ones are counted only."""


class Settings(Base):
    """`[services.health]`."""

    poll_seconds: float = Field(default=10.0, gt=0, le=300)
    """Time between two reports of the processes."""
    probes: ProbeSettings = ProbeSettings()
    history: HistorySettings = HistorySettings()
