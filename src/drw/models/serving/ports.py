"""What serving needs of an engine: the answer as it comes, in OpenAI's chunks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Literal

Endpoint = Literal["chat/completions", "completions"]
Body = dict[str, Any]
"""A request as OpenAI's API has it, checked, without what serving itself decides (`model`, `stream`)."""
Chunk = dict[str, Any]
"""One event of OpenAI's streams, decoded."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where one model answers."""

    model: str
    """Its id on this platform, for messages."""
    base_url: str
    """`http(s)://...` or `unix:/path`, without a slash at the end."""
    upstream_model: str
    api_key_variable: str


class ChatEngine(ABC):
    """Runs chat models somewhere."""

    @abstractmethod
    def stream(self, target: Target, endpoint: Endpoint, body: Body) -> AsyncGenerator[Chunk, None]:
        """Yield the answer as it comes; closing the generator stops the engine's work.

        Raises:
            EngineUnavailable: before the first chunk: it does not answer.
            AnswerCut: after it: it stopped answering.
            EngineStalled: the next token did not come in time.
            EngineMisconfigured: it refuses us, not the caller.
            InvalidRequest: it refuses the request.
            RateLimited: it wants us to come back later.
        """

    @abstractmethod
    async def count_prompt(self, target: Target, endpoint: Endpoint, body: Body) -> int | None:
        """Return the tokens of the prompt; None where only the answer will tell."""

    @abstractmethod
    async def check(self, target: Target) -> None:
        """Raise where the engine does not answer."""

    @abstractmethod
    async def close(self) -> None:
        """Close the connections."""
