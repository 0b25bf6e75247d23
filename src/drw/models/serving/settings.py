"""Settings of model serving."""

from __future__ import annotations

from pydantic import Field

from drw.billing.settings import MeteringSettings
from drw.kernel.runtime.settings import Settings as Base
from drw.models.serving.observability import content_capture
from drw.models.serving.runtime.settings import RuntimeSettings


class CircuitSettings(Base):
    """Circuit breakers; times are in seconds."""

    consecutive_failures: int = Field(default=5, ge=1, le=1000)
    """Consecutive failures that open the circuit."""
    failure_rate: float = Field(default=0.5, gt=0, le=1)
    """Share of failures among the last `window` responses that opens the circuit."""
    window: int = Field(default=20, ge=2, le=1000)
    """Number of responses that `failure_rate` considers."""
    open_seconds: float = Field(default=2.0, gt=0, le=3600)
    """Time that the circuit stays open. It doubles with each failed probe."""
    max_open_seconds: float = Field(default=20.0, gt=0, le=3600)
    """Maximum time that the circuit stays open."""
    probe_seconds: float = Field(default=10.0, gt=0, le=3600)
    """Time limit of a probe's first token if another candidate exists."""


class ReplicaCheckSettings(Base):
    """Checks of replicas that fail or stall while another replica of the model works; times are in seconds."""

    interval_seconds: float = Field(default=0.25, gt=0, le=60)
    """Time between two looks at the replicas."""
    stall_seconds: float = Field(default=0.5, gt=0, le=600)
    """Time without a token after which a replica's health endpoint is checked. A failed check opens its circuit."""


class RetrySettings(Base):
    """`[services.serving.retries]`; times are in seconds."""

    max_attempts: int = Field(default=6, ge=1, le=32)
    """Maximum attempts of one request at all models."""
    max_retries: int = Field(default=2, ge=0, le=31)
    """Maximum attempts of one request at replicas that failed for it before."""
    budget_ratio: float = Field(default=0.2, ge=0, le=1)
    """Retries of all requests, as a share of the requests ..."""
    budget_floor: float = Field(default=2.0, ge=0, le=1000)
    """... plus this many retries per second."""
    first_wait_seconds: float = Field(default=0.1, ge=0, le=60)
    """Wait before the first retry. It doubles with each retry."""
    max_wait_seconds: float = Field(default=5.0, ge=0, le=600)
    """Maximum wait. If the upstream asks for a longer one, the caller receives its `Retry-After`."""


class ClientSettings(Base):
    """Timeouts and options of an engine."""

    connect_seconds: float = Field(default=5.0, gt=0, le=60)
    """Timeout of a connection attempt."""
    first_token_seconds: float = Field(default=300.0, gt=0, le=3600)
    """Timeout from the request to the first token, including the processing of the prompt."""
    between_tokens_seconds: float = Field(default=60.0, gt=0, le=3600)
    """Timeout between two tokens."""
    continuous_usage: bool = False
    """Request token counts in each event. vLLM supports this; others reject such requests."""
    cache_salt: bool = False
    """Send `cache_salt`, which separates the prefix caches of tenants in vLLM; others reject it."""
    cache_salt_key: str = Field(default="", max_length=256)
    """Secret that all serving processes share, so that a tenant has the same salt in each of them."""
    reuse_prompts: bool = True
    """Reuse the prefix cache of a llama.cpp server for the same tenant. Disable it if several serving processes share
    one server, because each tracks only its own requests."""


class BatchSettings(Base):
    """`[services.serving.batches]`: limits and workers of batches."""

    concurrent: int = Field(4, ge=0, le=256)
    """Requests of batches that this process runs at once. 0: other processes run them."""
    max_active_per_org: int = Field(20, ge=1, le=10_000)
    """Batches of one org that have not ended; further ones receive a 429."""
    max_requests: int = Field(50_000, ge=1, le=50_000)
    """Requests in one batch."""
    max_input_bytes: int = Field(200 << 20, ge=1024, le=512 << 20)
    """Size of the file of a batch."""
    max_line_bytes: int = Field(16 << 20, ge=1024, le=64 << 20)
    """Size of one line of the file."""
    max_output_bytes: int = Field(256 << 20, ge=1024, le=448 << 20)
    """Size of the results of one batch. Once it is reached, the remaining requests fail without running."""
    retention_days: int = Field(30, ge=1, le=3660)
    """Days until the record of a batch that has ended is deleted. Its files stay."""


class PolicySettings(Base):
    """One category of the local moderation policy: `[services.serving.moderation.categories.NAME]`."""

    words: tuple[str, ...] = Field((), max_length=10_000)
    """Words and phrases. They match whole words, in upper or lower case."""
    patterns: tuple[str, ...] = Field((), max_length=1000)
    """Regular expressions in the syntax of RE2, which matches in linear time."""


class ModerationSettings(Base):
    """`[services.serving.moderation]`: the rules of the moderation model `policy`."""

    categories: dict[str, PolicySettings] = Field(default_factory=dict, max_length=100)
    """Categories by name. Without any there is no model `policy`."""


class ResponseSettings(Base):
    """`[services.serving.responses]`: stored responses of `/v1/responses`."""

    store: bool = True
    """Whether responses can be stored. Without it, `store: true` and `previous_response_id` are a 400."""
    store_by_default: bool = True
    """Whether a response without the parameter `store` is stored, as at OpenAI."""
    retention_days: float = Field(default=30.0, gt=0, le=366)
    """Days after which a stored response is deleted."""
    max_bytes: int = Field(default=4 << 20, ge=1024, le=32 << 20)
    """Maximum bytes of the input of one stored response."""
    max_bytes_per_desk: int = Field(default=256 << 20, ge=1024)
    """Maximum bytes of the stored responses of a desk; further ones receive a 429."""
    max_bytes_per_org: int = Field(default=1 << 30, ge=1024)
    """Maximum bytes of the stored responses of an org; further ones receive a 429."""
    max_chain: int = Field(default=200, ge=1, le=1000)
    """Maximum responses of a chain of `previous_response_id`."""
    max_chain_bytes: int = Field(default=8 << 20, ge=1024, le=32 << 20)
    """Maximum bytes of a chain."""
    file_search_characters: int = Field(default=6000, ge=50, le=1_000_000)
    """Maximum characters of the passages of a file search that the model receives."""


class Settings(Base):
    """`[services.serving]`."""

    max_waiting: int = Field(64, ge=0, le=100_000)
    """Maximum requests that wait for one model; further ones receive a 503."""
    max_waiting_seconds: float = Field(60.0, gt=0, le=3600)
    """Maximum wait of a request in the admission queue of a model."""
    remember_models_seconds: float = Field(5.0, ge=0, le=300)
    """Lifetime of cached answers of discovery."""
    capture_content: bool = Field(default_factory=content_capture.enabled_by_environment)
    """Put prompts and answers on spans, redacted; never in logs, metrics or audit records."""
    capture_characters: int = Field(16_384, ge=256, le=262_144)
    """Maximum characters of a prompt, and of an answer, on a span."""
    max_body_bytes: int = Field(33 << 20, ge=1024, le=64 << 20)
    """Maximum size of a request body."""
    max_buffered_bytes: int = Field(512 << 20, ge=1 << 20)
    """Maximum bytes of the bodies of all running requests; further ones receive a 503."""
    max_buffered_bytes_per_org: int = Field(128 << 20, ge=1 << 20)
    """Maximum bytes of the bodies of one org; further requests receive a 429."""
    switch_seconds: float = Field(120.0, ge=0, le=3600)
    """Maximum time that an alias keeps its old models while new ones are loaded."""
    total_seconds: float = Field(900.0, gt=0, le=3600)
    """Time limit of a complete answer, all attempts included, if neither alias nor model has one."""
    max_shadow_calls: int = Field(8, ge=1, le=1000)
    """Maximum concurrent copies of calls for the candidates of rollouts; further copies are dropped."""
    retries: RetrySettings = RetrySettings()
    circuits: CircuitSettings = CircuitSettings()
    replica_checks: ReplicaCheckSettings = ReplicaCheckSettings()
    llama_cpp: ClientSettings = ClientSettings()
    openai: ClientSettings = ClientSettings()
    vertex: ClientSettings = ClientSettings()
    metering: MeteringSettings = MeteringSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    batches: BatchSettings = BatchSettings()
    moderation: ModerationSettings = ModerationSettings()
    responses: ResponseSettings = ResponseSettings()
