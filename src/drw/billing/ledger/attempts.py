"""Attempts of a request and their usage: written ahead of the answer, and settled at its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from drw.billing.amounts import FREE, Price


@dataclass(slots=True)
class Attempt:
    """One attempt of a request at one engine."""

    model: str
    upstream: str = ""
    price: Price = FREE
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Upper bound of the delivered tokens, because tokens are written ahead of delivery."""
    started: bool = False
    """Whether the engine has been called; before that nothing is charged."""

    @property
    def cost(self) -> int:
        """Cost in nano-dollars."""
        return self.price.cost(self.prompt_tokens, self.completion_tokens) if self.started else 0

    @property
    def tokens(self) -> int:
        """Tokens, prompt and completion."""
        return self.prompt_tokens + self.completion_tokens if self.started else 0


@dataclass(slots=True)
class AttemptHistory:
    """A request with its attempts, which the reaper needs to settle the request of a dead process."""

    org: str
    desk: str
    key: str
    route: str
    attempts: list[Attempt] = field(default_factory=list)

    def dump(self) -> bytes:
        """Serialise the request as JSON."""
        return orjson.dumps(self)

    @classmethod
    def load(cls, data: bytes) -> AttemptHistory:
        """Parse the output of `dump`."""
        fields: dict[str, Any] = orjson.loads(data)
        attempts = [Attempt(**{**values, "price": Price(**values["price"])}) for values in fields.pop("attempts")]
        return cls(**fields, attempts=attempts)
