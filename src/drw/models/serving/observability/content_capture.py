"""Content capture: prompts and answers on spans, if enabled; redacted, truncated, in the format of the conventions.

Format: open-telemetry/semantic-conventions-genai, gen-ai-input-messages.json and gen-ai-output-messages.json,
as a JSON string, since span attributes cannot be nested.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from drw.kernel.observability.redaction import excerpt

Message = dict[str, Any]

VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""OpenTelemetry's variable, used if the setting is absent."""

_limit = 0
"""Per process, as the tracer and the metrics."""


def set_limit(characters: int) -> None:
    """Set the maximum characters of each prompt and answer on spans; 0: none."""
    global _limit
    _limit = characters


def character_limit() -> int:
    """Return the maximum characters of each prompt and answer on spans."""
    return _limit


def enabled_by_environment() -> bool:
    """Return whether the environment enables content capture."""
    return os.environ.get(VARIABLE, "").lower() in ("true", "span_only", "span_and_event")


def input_messages(body: Mapping[str, Any], limit: int) -> str:
    """Return the messages of a request, at most about the last `limit` characters."""
    if "prompt" in body:
        return _json([{"role": "user", "parts": [_text(str(body["prompt"]), limit)]}])
    recent: list[Message] = []
    for message in reversed(body.get("messages", ())):
        converted = {"role": message["role"], "parts": _parts(message, limit)}
        if (limit := limit - _size(converted)) < 0 and recent:
            break
        recent.append(converted)
    return _json(reversed(recent))


def output_messages(messages: Iterable[tuple[Message, str]], limit: int) -> str:
    """Return the choices of an answer with their finish reasons, at most about `limit` characters."""
    converted = []
    for message, finish_reason in messages:
        converted.append({"role": "assistant", "parts": _parts(message, limit), "finish_reason": finish_reason})
        limit = max(0, limit - _size(converted[-1]))
    return _json(converted)


def _parts(message: Mapping[str, Any], limit: int) -> list[Message]:
    content = message.get("content")
    if message.get("role") == "tool":
        response = excerpt(str(content), limit)
        return [{"type": "tool_call_response", "id": message.get("tool_call_id"), "response": response}]
    texts = [content] if isinstance(content, str) else content or ()
    parts = [_text(part if isinstance(part, str) else part.get("text", f"[{part['type']}]"), limit) for part in texts]
    return parts + [_call(call, limit) for call in message.get("tool_calls") or ()]


def _call(call: Mapping[str, Any], limit: int) -> Message:
    function = call["function"]
    return {
        "type": "tool_call",
        "id": call.get("id"),
        "name": function["name"],
        "arguments": excerpt(function["arguments"], limit),
    }


def _text(text: str, limit: int) -> Message:
    return {"type": "text", "content": excerpt(text, limit)}


def _size(message: Message) -> int:
    return sum(len(str(value)) for part in message["parts"] for value in part.values())


def _json(messages: Iterable[Message]) -> str:
    return orjson.dumps(list(messages)).decode()
