"""Prompts and answers on spans, where the operator asked for it: redacted, cut, in the conventions' form.

Form: open-telemetry/semantic-conventions-genai, gen-ai-input-messages.json and gen-ai-output-messages.json,
as a JSON string, since OpenTelemetry's spans have no nested values.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from drw.kernel.observability.redaction import excerpt

Message = dict[str, Any]

VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""OpenTelemetry's own variable for it, which counts where the settings say nothing."""

_limit = 0
"""Of the process, as are the tracer and the metrics."""


def allow(characters: int) -> None:
    """Put so many characters of each prompt and answer on spans from now on; 0: none."""
    global _limit
    _limit = characters


def allowed() -> int:
    """Return how many characters go on spans."""
    return _limit


def enabled_by_environment() -> bool:
    """Tell whether the environment asks for content on spans."""
    return os.environ.get(VARIABLE, "").lower() in ("true", "span_only", "span_and_event")


def input_messages(body: Mapping[str, Any], limit: int) -> str:
    """Return the messages of a request of OpenAI's API, the newest `limit` characters or so."""
    if "prompt" in body:
        return _json([{"role": "user", "parts": [_text(str(body["prompt"]), limit)]}])
    newest: list[Message] = []
    for message in reversed(body.get("messages", ())):
        shown = {"role": message["role"], "parts": _parts(message, limit)}
        if (limit := limit - _size(shown)) < 0 and newest:
            break
        newest.append(shown)
    return _json(reversed(newest))


def output_messages(messages: Iterable[tuple[Message, str]], limit: int) -> str:
    """Return the answers to one request, each with why it ended, at most about `limit` characters."""
    shown = []
    for message, finish_reason in messages:
        shown.append({"role": "assistant", "parts": _parts(message, limit), "finish_reason": finish_reason})
        limit = max(0, limit - _size(shown[-1]))
    return _json(shown)


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
