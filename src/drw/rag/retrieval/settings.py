"""Settings of retrieval."""

from __future__ import annotations

from pydantic import Field

from drw.kernel.runtime.settings import Settings as Base


class Settings(Base):
    """How much of the model's context an answer takes; together they must fit it, with the question."""

    source_tokens: int = Field(default=900, ge=100)
    """Tokens of passages that an answer is made from."""
    answer_tokens: int = Field(default=200, ge=10)
    """Tokens of an answer."""
    temperature: float = Field(default=0.0, ge=0)
    """The temperature of answers; 0 always takes the likeliest token."""
