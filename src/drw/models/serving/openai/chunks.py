"""What engines say in their chunks: which fields carry words of the answer, which endings make it whole."""

from __future__ import annotations

from typing import Any

from drw.models.serving.errors import CONTENT_FILTER
from drw.models.serving.ports import Chunk

TEXT = ("content", "text")
"""The answer itself, of a chat and of a completion."""
BESIDES = ("refusal", "reasoning_content", "reasoning")
"""Further text of a message. vLLM has renamed the reasoning; whoever sends it keeps its own name for it."""
WORDS = (*TEXT, *BESIDES, "tool_calls")
WHOLE = {"stop", "length", "tool_calls", "function_call"} | {
    *("eos_token", "stop_sequence"),  # TGI
    *("eos", "model_length", "max_tokens"),  # Together, Mistral, Gemini
}
"""OpenAI's endings, and what others call them. Not `abort` and `error` (vLLM, SGLang), nor what nobody knows."""
FILTERED = {CONTENT_FILTER, "safety", "recitation", "blocklist", "prohibited_content", "spii"}
"""An end by a rule about content: OpenAI's name, which Gemini gives a kind ("content_filter: SAFETY"), and Gemini's."""


def words(choice: dict[str, Any]) -> dict[str, Any]:
    """Return what one choice of a chunk has of the answer, by the fields' names."""
    delta = choice.get("delta") or choice
    return {name: text for name in WORDS if (text := delta.get(name))}


def has_words(choice: dict[str, Any]) -> bool:
    """Tell whether one choice of a chunk has anything of the answer; this is asked several times for each token."""
    delta = choice.get("delta") or choice
    for name in WORDS:  # noqa: SIM110 - a generator would cost more than all of it
        if delta.get(name):
            return True
    return False


def has_token(chunk: Chunk) -> bool:
    """Tell whether an event carries more than the announcement of an answer."""
    for choice in chunk.get("choices") or ():  # noqa: SIM110 - see `has_words`
        if choice.get("finish_reason") or has_words(choice):
            return True
    return False


def is_whole(finish_reason: str) -> bool:
    """Tell whether an answer that ended for this reason is all that there will be of it."""
    return finish_reason.lower() in WHOLE or is_filtered(finish_reason)


def is_filtered(finish_reason: str) -> bool:
    """Tell whether a rule about content ended an answer."""
    return finish_reason.lower().partition(":")[0] in FILTERED
