"""Settings of limits, and of how money is counted."""

from __future__ import annotations

from pydantic import Field

from drw.kernel.runtime.settings import Settings as Base


class Settings(Base):
    """What a key may do that has no limit of its own, and how money is counted."""

    default_requests_per_minute: int = Field(600, ge=1, le=1_000_000)
    """Requests a minute of a key that has no limit of its own."""
    data_planes: int = Field(1, ge=1, le=1000)
    """How many data planes there are: each lets its share of every limit of requests through."""
    lease_seconds: float = Field(30.0, gt=0, le=600)
    """As in serving's settings: after a loss of the counters silent processes are waited for so long."""
    uncounted_tokens: int = Field(4096, ge=0, le=1_000_000)
    """What an answer on a pass-through route is charged whose upstream did not say what it took, beside its prompt."""
    answer_seconds: float = Field(1.0, gt=0, le=10)
    """How long Valkey may take for one step; it is asked twice."""
