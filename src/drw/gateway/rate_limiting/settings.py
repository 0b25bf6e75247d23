"""Settings of rate limiting: the default limit, the number of data planes and the counters of money."""

from __future__ import annotations

from pydantic import Field

from drw.kernel.runtime.settings import Settings as Base


class Settings(Base):
    """Settings of rate limiting: the default limit and the counting of money."""

    default_requests_per_minute: int = Field(600, ge=1, le=1_000_000)
    """Requests per minute of keys without their own limit."""
    data_planes: int = Field(1, ge=1, le=1000)
    """Number of data planes. Each enforces its share of request limits."""
    lease_seconds: float = Field(30.0, gt=0, le=600)
    """The same as `services.serving.metering.lease_seconds`. After a loss of the counters, the rebuild waits this long
    for processes that do not answer."""
    uncounted_tokens: int = Field(4096, ge=0, le=1_000_000)
    """Completion tokens charged for a pass-through answer without usage, in addition to its prompt."""
    answer_seconds: float = Field(1.0, gt=0, le=10)
    """Timeout of one call to Valkey. A call is retried once."""
