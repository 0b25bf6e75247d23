"""Settings of serving."""

from __future__ import annotations

from pydantic import Field

from drw.billing.settings import MeteringSettings
from drw.kernel.runtime.settings import Settings as Base
from drw.models.serving.observability import content_capture


class CircuitSettings(Base):
    """When a circuit opens, and for how long; times are in seconds."""

    consecutive_failures: int = Field(default=5, ge=1, le=1000)
    """Consecutive failures that open the circuit."""
    failure_rate: float = Field(default=0.5, gt=0, le=1)
    """Share of failures among the last `window` answers that opens the circuit."""
    window: int = Field(default=20, ge=2, le=1000)
    """Number of answers that `failure_rate` considers."""
    open_seconds: float = Field(default=2.0, gt=0, le=3600)
    """Time that the circuit stays open. It doubles with each failed probe."""
    max_open_seconds: float = Field(default=20.0, gt=0, le=3600)
    """The longest that it stays open."""
    probe_seconds: float = Field(default=10.0, gt=0, le=3600)
    """A probe's first token must come within this time where somebody else could answer."""


class RetrySettings(Base):
    """`[services.serving.retries]`; times are in seconds."""

    max_attempts: int = Field(default=6, ge=1, le=32)
    """Of one request, at whatever model."""
    max_retries: int = Field(default=2, ge=0, le=31)
    """Those among them that go to a place that failed this request before."""
    budget_ratio: float = Field(default=0.2, ge=0, le=1)
    """Retries at a model that failed already, as a part of all requests ..."""
    budget_floor: float = Field(default=2.0, ge=0, le=1000)
    """... and so many a second besides."""
    first_wait_seconds: float = Field(default=0.1, ge=0, le=60)
    """Doubled with each further retry."""
    max_wait_seconds: float = Field(default=5.0, ge=0, le=600)
    """An upstream that wants a longer pause is not waited for: its `Retry-After` goes to the caller."""


class ClientSettings(Base):
    """How long an engine may take."""

    connect_seconds: float = Field(default=5.0, gt=0, le=60)
    """How long a connection may take."""
    first_token_seconds: float = Field(default=300.0, gt=0, le=3600)
    """From the request to the first token: the prompt is read in this time."""
    between_tokens_seconds: float = Field(default=60.0, gt=0, le=3600)
    """From one token to the next."""
    continuous_usage: bool = False
    """Whether to ask for the tokens so far in each event, as vLLM gives them; others refuse a request that asks."""
    cache_salt: bool = False
    """Whether to send `cache_salt`, with which vLLM keeps each tenant's prefix cache apart; others refuse it."""
    cache_salt_key: str = Field(default="", max_length=256)
    """A secret that several processes of serving share, so that a tenant has the same salt at each of them."""
    reuse_prompts: bool = True
    """Reuse the prefix cache of a llama.cpp server for the same tenant. Disable it if several processes share one
    server, because none knows which tenants' prompts the others have cached."""


class Settings(Base):
    """`[services.serving]`."""

    max_waiting: int = Field(64, ge=0, le=100_000)
    """Requests that may wait for one model; more are sent away with 503."""
    max_waiting_seconds: float = Field(60.0, gt=0, le=3600)
    """The longest that a request waits for its turn at a model."""
    remember_models_seconds: float = Field(5.0, ge=0, le=300)
    """How long an answer of discovery is good without asking again."""
    capture_content: bool = Field(default_factory=content_capture.enabled_by_environment)
    """Put prompts and answers on spans, redacted; never in logs, metrics or audit records."""
    capture_characters: int = Field(16_384, ge=256, le=262_144)
    """How much of a prompt, and of an answer, goes on a span."""
    max_body_bytes: int = Field(33 << 20, ge=1024, le=64 << 20)
    """The largest body of a request."""
    max_buffered_bytes: int = Field(512 << 20, ge=1 << 20)
    """Of the bodies of all requests under way; more are refused with 503."""
    max_buffered_bytes_per_org: int = Field(128 << 20, ge=1 << 20)
    """Of those of one org; more are refused with 429."""
    total_seconds: float = Field(900.0, gt=0, le=3600)
    """For a whole answer with every attempt at it, where neither its alias nor its model says."""
    retries: RetrySettings = RetrySettings()
    circuits: CircuitSettings = CircuitSettings()
    llama_cpp: ClientSettings = ClientSettings()
    openai: ClientSettings = ClientSettings()
    vertex: ClientSettings = ClientSettings()
    metering: MeteringSettings = MeteringSettings()
