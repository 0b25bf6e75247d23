"""Settings of reservations, leases and estimates."""

from __future__ import annotations

from pydantic import Field

from drw.kernel.runtime.settings import Settings as Base


class MeteringSettings(Base):
    """How reservations are held."""

    lease_seconds: float = Field(default=30.0, gt=0, le=600)
    """After this long without a sign of life a process's reservations are settled in its place."""
    heartbeat_seconds: float = Field(default=5.0, gt=0, le=60)
    """How often a process gives a sign of life."""
    answer_seconds: float = Field(default=1.0, gt=0, le=10)
    """How long Valkey may take for one step; it is asked twice."""
    patience_seconds: float = Field(default=8.0, ge=0, le=60)
    """How long a stream waits, between two tokens, for a Valkey that has gone away."""
    block_tokens: int = Field(default=16, ge=1, le=4096)
    """How many tokens are written down ahead of those passed on: at most so many are charged that nobody got."""
    min_tokens: int = Field(default=16, ge=1, le=4096)
    """A stream begins where its budget reaches for so many tokens, though not for all that it may take."""
    max_tokens: int = Field(default=4096, ge=1, le=1_000_000)
    """How long an answer may become where neither the request nor the model says."""
    image_tokens: int = Field(default=4096, ge=1, le=1_000_000)
    """What one picture may take of a prompt at most."""
    processes: int = Field(default=1, ge=1, le=10_000)
    """How many processes serve models: each takes its share of a limit while Valkey is away."""
