"""Settings of reservations, leases and estimates."""

from __future__ import annotations

from pydantic import Field

from drw.kernel.runtime.settings import Settings as Base


class MeteringSettings(Base):
    """`[services.serving.metering]`: leases, write-ahead, estimates."""

    lease_seconds: float = Field(default=30.0, gt=0, le=600)
    """How long a lease lasts without a heartbeat; then the reaper settles the reservations of the process."""
    heartbeat_seconds: float = Field(default=5.0, gt=0, le=60)
    """The interval of heartbeats."""
    answer_seconds: float = Field(default=1.0, gt=0, le=10)
    """The timeout of one script in Valkey, which is tried twice."""
    patience_seconds: float = Field(default=8.0, ge=0, le=60)
    """How long a stream waits, between two tokens, for a Valkey that is unavailable."""
    block_tokens: int = Field(default=16, ge=1, le=4096)
    """Tokens written ahead of delivery. This is also the maximum number of tokens charged without being delivered."""
    min_tokens: int = Field(default=16, ge=1, le=4096)
    """A stream starts if the budget suffices for this number of tokens, even if not for the longest answer."""
    max_tokens: int = Field(default=4096, ge=1, le=1_000_000)
    """The longest answer where neither the request nor the model bounds it."""
    image_tokens: int = Field(default=4096, ge=1, le=1_000_000)
    """The most tokens of one picture in a prompt."""
    processes: int = Field(default=1, ge=1, le=10_000)
    """How many processes serve models: each enforces its share of a limit while Valkey is unavailable."""
