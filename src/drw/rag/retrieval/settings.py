"""Settings of retrieval."""

from __future__ import annotations

from pydantic import Field

from drw.kernel.runtime.settings import Settings as Base


class Settings(Base):
    """Token budgets of an answer. Sources, answer and question must fit the context of the model together."""

    source_tokens: int = Field(default=900, ge=100)
    """Tokens of the passages in the prompt."""
    answer_tokens: int = Field(default=200, ge=10)
    """Tokens of an answer."""
    temperature: float = Field(default=0.0, ge=0)
    """The temperature of answers; 0 always picks the most likely token."""
