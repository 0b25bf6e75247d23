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

_most = 0
"""Of the process, as are the tracer and the metrics."""


def allow(characters: int) -> None:
    """Put so many characters of each prompt and answer on spans from now on; 0: none."""
    global _most
    _most = characters


def allowed() -> int:
    """Return how many characters go on spans."""
    return _most


def asked_by_environment() -> bool:
    """Tell whether the environment asks for content on spans."""
    return os.environ.get(VARIABLE, "").lower() in ("true", "span_only", "span_and_event")


def asked(body: Mapping[str, Any], most: int) -> str:
    """Return the messages of a request of OpenAI's API, about `most` characters of them: the newest are kept."""
    if "prompt" in body:
        return _json([{"role": "user", "parts": [_text(str(body["prompt"]), most)]}])
    kept: list[Message] = []
    for message in reversed(body.get("messages", ())):
        shown = {"role": message["role"], "parts": _parts(message, most)}
        if (most := most - _size(shown)) < 0 and kept:
            break
        kept.append(shown)
    return _json(reversed(kept))


def answered(messages: Iterable[tuple[Message, str]], most: int) -> str:
    """Return the answers to one request, each with why it ended, at most about `most` characters of them."""
    shown = []
    for message, finish_reason in messages:
        shown.append({"role": "assistant", "parts": _parts(message, most), "finish_reason": finish_reason})
        most = max(0, most - _size(shown[-1]))
    return _json(shown)


def _parts(message: Mapping[str, Any], most: int) -> list[Message]:
    content = message.get("content")
    if message.get("role") == "tool":
        said = excerpt(str(content), most)
        return [{"type": "tool_call_response", "id": message.get("tool_call_id"), "response": said}]
    texts = [content] if isinstance(content, str) else content or ()
    parts = [_text(part if isinstance(part, str) else part.get("text", f"[{part['type']}]"), most) for part in texts]
    return parts + [_call(call, most) for call in message.get("tool_calls") or ()]


def _call(call: Mapping[str, Any], most: int) -> Message:
    function = call["function"]
    return {
        "type": "tool_call",
        "id": call.get("id"),
        "name": function["name"],
        "arguments": excerpt(function["arguments"], most),
    }


def _text(text: str, most: int) -> Message:
    return {"type": "text", "content": excerpt(text, most)}


def _size(message: Message) -> int:
    return sum(len(str(value)) for part in message["parts"] for value in part.values())


def _json(messages: Iterable[Message]) -> str:
    return orjson.dumps(list(messages)).decode()
