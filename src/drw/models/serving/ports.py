"""The port of chat engines: streamed chunks in OpenAI's format, each with the usage that it reports."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from drw.billing.usage import UsageUpdate

Endpoint = Literal["chat/completions", "completions"]
Body = dict[str, Any]
"""A request as OpenAI's API has it, checked, without what serving itself decides (`model`, `stream`)."""
Chunk = dict[str, Any]
"""One event of OpenAI's streams, decoded."""


class EngineEvent(NamedTuple):
    """One step of an answer: the chunk for the caller, and the usage for metering."""

    chunk: Chunk
    usage: UsageUpdate


class CountedPrompt(NamedTuple):
    """The length of one prompt in tokens, as the engine counts it."""

    tokens: int
    ids: Sequence[int] = ()
    """The token ids, if the engine accepts them in place of the text."""


PENALTIES = {"frequency_penalty", "presence_penalty"}
FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a model may take, in seconds; 0: as the adapter's settings have it."""

    connect: float = 0.0
    first_token: float = 0.0
    between_tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Until when one attempt may go on, in the event loop's time, whatever the model's own deadlines are."""

    first_token: float = FOREVER
    end: float = FOREVER
    """The end of the request itself."""


UNLIMITED = EngineLimits()


@dataclass(frozen=True, slots=True)
class EngineTarget:
    """Where one model answers."""

    model: str
    """Its id on this platform, for messages."""
    base_url: str
    """`http(s)://...` or `unix:/path`, without a slash at the end."""
    upstream_model: str
    api_key_variable: str
    deadlines: Deadlines = Deadlines()
    sampling: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Parameters for requests that do not give them."""

    def sampled(self, body: Body) -> Body:
        """Return a request with the model's own sampling where the caller has none; any penalty is one."""
        own = dict(self.sampling)
        if not body.keys().isdisjoint(PENALTIES):
            own.pop("repeat_penalty", None)
        return {**own, **body}


class ChatEngine(ABC):
    """Runs chat models somewhere."""

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
            EngineUnavailable: before the first chunk: it does not answer.
            ResponseTruncated: after it: it stopped answering, or said what is no part of an answer.
            EngineStalled: the next token did not come in time.
            RequestTimedOut: the request's own time ran out.
            EngineMisconfigured: it refuses us, not the caller.
            InvalidRequest: it refuses the request; `ContentFiltered` and `ContextLengthExceeded` say why.
            EngineLimited: it wants us to come back later.
        """

    @abstractmethod
    async def count_prompt(self, target: EngineTarget, endpoint: Endpoint, body: Body) -> CountedPrompt | None:
        """Count the tokens of the prompt; None if the engine reports them only with the answer."""

    @abstractmethod
    async def check(self, target: EngineTarget) -> None:
        """Raise where the engine does not answer."""

    @abstractmethod
    async def close(self) -> None:
        """Close the connections."""
