"""Builds Anthropic's messages from the answer of a chat: content blocks, stop reason, usage."""

from __future__ import annotations

from typing import Any

import orjson
from pydantic_core import from_json

from drw.models.serving.errors import ResponseTruncated
from drw.models.serving.openai.chunks import is_filtered
from drw.models.serving.openai.responses import Answer

Block = dict[str, Any]

REASONING_FIELDS = ("reasoning_content", "reasoning")
UNSIGNED = "unsigned"
"""The signature of thinking blocks. Other providers sign them; this platform does not check them."""
MAX_TOKENS, TOOL_USE, END_TURN, STOP_SEQUENCE, REFUSAL = (
    "max_tokens",
    "tool_use",
    "end_turn",
    "stop_sequence",
    "refusal",
)
STOP_REASONS = {
    **dict.fromkeys(("length", "max_tokens"), MAX_TOKENS),
    **dict.fromkeys(("tool_calls", "function_call"), TOOL_USE),
    "stop_sequence": STOP_SEQUENCE,
    "model_length": "model_context_window_exceeded",
}
"""Anthropic's stop reasons by OpenAI's finish reasons; others are `end_turn`."""
MATCHED_STOP_FIELDS = ("stop_reason", "matched_stop")
"""Fields of a choice with the stop sequence that ended it: of vLLM and the bundled engine, and of SGLang."""


def message_id(answer: Answer) -> str:
    """Return the id of the message of an answer; feedback finds the call by its digits."""
    return f"msg_{answer.id.rpartition('-')[2]}"


def stop_reason(answer: Answer, stops: list[str]) -> tuple[str, str | None]:
    """Return the stop reason and the stop sequence of a complete answer.

    An upstream that does not report the sequence ends with `end_turn`.
    """
    choice = answer.first_choice
    reason = choice.finish_reason or ""
    matched = (choice.choice_extensions.get(name) for name in MATCHED_STOP_FIELDS)
    if reason == "stop" and (sequence := next((stop for stop in matched if stop in stops), None)):
        return STOP_SEQUENCE, sequence
    if is_filtered(reason):
        return REFUSAL, None
    if reason == "stop" and choice.tool_calls:
        return TOOL_USE, None
    return STOP_REASONS.get(reason.lower(), END_TURN), None


def usage(answer: Answer) -> dict[str, int]:
    """Return the usage of an answer; tokens from a cache are counted apart from `input_tokens`."""
    reported = answer.usage or {}
    details = reported.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    cached = cached if isinstance(cached, int) else 0
    return {
        "input_tokens": max(0, (reported.get("prompt_tokens") or 0) - cached),
        "output_tokens": reported.get("completion_tokens") or 0,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
    }


def message(answer: Answer, stops: list[str], *, shows_thinking: bool, hides_text: bool) -> dict[str, Any]:
    """Return a complete answer as a message.

    Raises:
        ResponseTruncated: the arguments of a tool call are not a JSON object.
    """
    reason, sequence = stop_reason(answer, stops)
    content = _content(answer, truncated=reason == MAX_TOKENS, shows_thinking=shows_thinking, hides_text=hides_text)
    return message_object(message_id(answer), answer.model) | {
        "content": content,
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": usage(answer),
    }


def message_object(id_: str, model: str) -> dict[str, Any]:
    """Return a message without content."""
    head = {"id": id_, "type": "message", "role": "assistant", "model": model, "content": []}
    empty_usage = {"input_tokens": 0, "output_tokens": 0}
    return head | {"stop_reason": None, "stop_sequence": None, "usage": empty_usage}


def thinking_block(text: str) -> Block:
    """Return a block with reasoning."""
    return {"type": "thinking", "thinking": text, "signature": UNSIGNED}


def text_block(text: str) -> Block:
    """Return a block with text."""
    return {"type": "text", "text": text}


def tool_use_block(call: dict[str, Any], input_: dict[str, Any]) -> Block:
    """Return a block with a tool call."""
    return {"type": "tool_use", "id": call["id"], "name": call["function"]["name"], "input": input_}


def tool_input(call: dict[str, Any], *, truncated: bool) -> dict[str, Any]:
    """Return the arguments of a tool call. Of an answer that ended at `max_tokens`, they can be incomplete.

    Raises:
        ResponseTruncated: the arguments are not a JSON object.
    """
    text = call["function"]["arguments"]
    try:
        parsed = orjson.loads(text) if text.strip() else {}
    except orjson.JSONDecodeError:
        parsed = _partial(text) if truncated else None
    if not isinstance(parsed, dict):
        raise ResponseTruncated("the model wrote arguments of a tool call that are not a JSON object: try again")
    return parsed


def _partial(text: str) -> dict[str, Any]:
    try:
        parsed = from_json(text, allow_partial="trailing-strings")
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _content(answer: Answer, *, truncated: bool, shows_thinking: bool, hides_text: bool) -> list[Block]:
    choice = answer.first_choice
    reasoning = next((text for name in REASONING_FIELDS if (text := choice.extra.get(name))), "")
    text = "".join(choice.text_parts) + choice.extra.get("refusal", "")
    content = [thinking_block("" if hides_text else reasoning)] if reasoning and shows_thinking else []
    content += [text_block(text)] if text else []
    calls = [choice.tool_calls[index] for index in sorted(choice.tool_calls)]
    return content + [tool_use_block(call, tool_input(call, truncated=truncated)) for call in calls]
