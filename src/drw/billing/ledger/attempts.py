"""What a request has used so far, by attempt: written ahead of the answer, and settled at its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from drw.billing.amounts import FREE, Price


@dataclass(slots=True)
class Attempt:
    """One attempt at a request, by one engine."""

    model: str
    upstream: str = ""
    price: Price = FREE
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """The most that was delivered: tokens are written ahead of their delivery."""
    started: bool = False
    """Whether the engine has been asked; before that nothing is charged."""

    @property
    def cost(self) -> int:
        """What it costs in nano-dollars."""
        return self.price.cost(self.prompt_tokens, self.completion_tokens) if self.started else 0

    @property
    def tokens(self) -> int:
        """Its tokens, prompt and answer."""
        return self.prompt_tokens + self.completion_tokens if self.started else 0


@dataclass(slots=True)
class AttemptHistory:
    """A request with its attempts: what the reaper needs to settle it for a process that died."""

    org: str
    desk: str
    key: str
    route: str
    attempts: list[Attempt] = field(default_factory=list)

    def dump(self) -> bytes:
        """Return it as JSON."""
        return orjson.dumps(self)

    @classmethod
    def load(cls, data: bytes) -> AttemptHistory:
        """Read what `dump` wrote."""
        fields: dict[str, Any] = orjson.loads(data)
        attempts = [Attempt(**{**one, "price": Price(**one["price"])}) for one in fields.pop("attempts")]
        return cls(**fields, attempts=attempts)
