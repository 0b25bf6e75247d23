"""The port of chat engines: streamed chunks in OpenAI's format, each with the usage that it reports."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from drw.billing.usage import UsageUpdate

Endpoint = Literal["chat/completions", "completions"]
Body = dict[str, Any]
"""A validated request in OpenAI's format, without the parameters that serving sets (`model`, `stream`)."""
Chunk = dict[str, Any]
"""One event of OpenAI's streams, decoded."""


EngineEvent = tuple[Chunk, UsageUpdate]
"""One step of an answer: the chunk for the caller, and the usage for metering."""


class CountedPrompt(NamedTuple):
    """The length of one prompt in tokens, as the engine counts it."""

    tokens: int
    ids: Sequence[int] = ()
    """The token ids, if the engine accepts them in place of the text."""


PENALTIES = {"frequency_penalty", "presence_penalty"}
NO_DEADLINE = float("inf")


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Time limits of a model in seconds. 0: the limit in the settings of the adapter."""

    connect: float = 0.0
    first_token: float = 0.0
    between_tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Deadlines of one attempt, in the event loop's time. The deadlines of the model apply as well."""

    first_token: float = NO_DEADLINE
    deadline: float = NO_DEADLINE
    """The deadline of the request."""


UNLIMITED = EngineLimits()


@dataclass(frozen=True, slots=True)
class EngineTarget:
    """One replica of a model: address, credentials and defaults."""

    model: str
    """Its id on this platform, for error messages."""
    base_url: str
    """`http(s)://...` or `unix:/path`, without a slash at the end."""
    upstream_model: str
    api_key_variable: str
    deadlines: Deadlines = Deadlines()
    sampling: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Default sampling parameters."""

    def with_sampling(self, body: Body) -> Body:
        """Return a request with the default sampling parameters; any penalty replaces the default repeat penalty."""
        defaults = dict(self.sampling)
        if not body.keys().isdisjoint(PENALTIES):
            defaults.pop("repeat_penalty", None)
        return {**defaults, **body}


class ChatEngine(ABC):
    """Runs chat models."""

    parameters: frozenset[str] = frozenset()
    """Supported parameters that are not OpenAI's, for all models of the engine."""

    @abstractmethod
    def stream(
        self,
        target: EngineTarget,
        endpoint: Endpoint,
        body: Body,
        limits: EngineLimits = UNLIMITED,
        prompts: Sequence[CountedPrompt] = (),
    ) -> AsyncGenerator[EngineEvent, None]:
        """Yield the answer as it comes; closing the generator stops the engine's work.

        `prompts` are the prompts of `body` as `count_prompt` of the same target returned them, if they were counted.

        Raises:
            EngineUnavailable: the engine does not answer (before the first chunk).
            ResponseTruncated: the response ended early or is malformed (after the first chunk).
            EngineStalled: the next token did not arrive in time.
            RequestTimedOut: the deadline of the request passed.
            EngineMisconfigured: the engine rejects the platform's credentials.
            InvalidRequest: the engine rejects the request; also `ContentFiltered` and `ContextLengthExceeded`.
            EngineLimited: the rate limit of the upstream is exceeded.
        """

    @abstractmethod
    async def count_prompt(self, target: EngineTarget, endpoint: Endpoint, body: Body) -> CountedPrompt | None:
        """Count the tokens of the prompt; None if the engine reports them only with the answer."""

    @abstractmethod
    async def check(self, target: EngineTarget) -> None:
        """Raise an error if the engine does not answer."""

    @abstractmethod
    async def close(self) -> None:
        """Close the connections."""
