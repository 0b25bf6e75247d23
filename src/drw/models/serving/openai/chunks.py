"""Chunk parsing: the fields with output of the model, and the meaning of finish reasons."""

from __future__ import annotations

from typing import Any

from drw.models.serving.errors import CONTENT_FILTER
from drw.models.serving.ports import Chunk

TEXT_FIELDS = ("content", "text")
"""The text of a chat and of a completion."""
EXTRA_TEXT_FIELDS = ("refusal", "reasoning_content", "reasoning")
"""Further text of a message. vLLM has renamed the reasoning; both names are passed on."""
OUTPUT_FIELDS = (*TEXT_FIELDS, *EXTRA_TEXT_FIELDS, "tool_calls")
COMPLETE_REASONS = {"stop", "length", "tool_calls", "function_call"} | {
    *("eos_token", "stop_sequence"),  # TGI
    *("eos", "model_length", "max_tokens"),  # Together, Mistral, Gemini
}
"""Finish reasons of complete answers. Others, such as `abort` and `error` of vLLM and SGLang, mean a failure."""
FILTER_REASONS = {CONTENT_FILTER, "safety", "recitation", "blocklist", "prohibited_content", "spii"}
"""Finish reasons of content filters: OpenAI's and Gemini's. Gemini also sends "content_filter: SAFETY"."""


def output_fields(choice: dict[str, Any]) -> dict[str, Any]:
    """Return the output in one choice of a chunk by field name."""
    delta = choice.get("delta") or choice
    return {name: text for name in OUTPUT_FIELDS if (text := delta.get(name))}


def has_output(choice: dict[str, Any]) -> bool:
    """Return whether one choice of a chunk has output. Called several times per token."""
    delta = choice.get("delta") or choice
    for name in OUTPUT_FIELDS:  # noqa: SIM110 - a generator would cost more than the loop
        if delta.get(name):
            return True
    return False


def has_token(chunk: Chunk) -> bool:
    """Return whether a chunk has output or a finish reason."""
    for choice in chunk.get("choices") or ():  # noqa: SIM110 - see `has_output`
        if choice.get("finish_reason") or has_output(choice):
            return True
    return False


def is_complete(finish_reason: str) -> bool:
    """Return whether an answer with this finish reason is complete."""
    return finish_reason.lower() in COMPLETE_REASONS or is_filtered(finish_reason)


def is_filtered(finish_reason: str) -> bool:
    """Return whether a content filter ended the answer."""
    return finish_reason.lower().partition(":")[0] in FILTER_REASONS
