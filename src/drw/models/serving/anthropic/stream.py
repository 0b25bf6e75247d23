"""Converts the chunks of a chat to the events of Anthropic's streams.

Source: Anthropic API reference, "Streaming Messages".
"""

from __future__ import annotations

from typing import Any

import orjson

from drw.kernel.errors import DrwError
from drw.models.serving.anthropic import responses
from drw.models.serving.anthropic.errors import error_body
from drw.models.serving.openai.responses import Answer
from drw.models.serving.ports import Chunk

THINKING, TEXT, TOOL = "thinking", "text", "tool_use"


def event(name: str, **fields: Any) -> bytes:
    """Return one server-sent event."""
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps({"type": name, **fields}) + b"\n\n"


PING = event("ping")


def error_event(error: DrwError, request_id: str) -> bytes:
    """Return the event of an error after the start of a stream."""
    return b"event: error\ndata: " + orjson.dumps(error_body(error, request_id)) + b"\n\n"


class MessageStream:
    """The stream of one message.

    One content block is open at a time. The first tool call is streamed; further ones, and text after a tool call,
    follow when the answer is complete, because upstreams can interleave them.
    """

    def __init__(self, answer: Answer, stops: list[str], *, shows_thinking: bool, hides_text: bool) -> None:
        self._answer = answer
        self._stops = stops
        self._shows_thinking = shows_thinking
        self._hides_text = hides_text
        self._open = ""
        """The type of the open block."""
        self._index = -1
        self._late_text = ""
        self._streamed_call: int | None = None

    def start(self) -> bytes:
        """Return the events that start the message."""
        message = responses.message_object(responses.message_id(self._answer), self._answer.model)
        return event("message_start", message=message) + PING

    def feed(self, chunk: Chunk) -> bytes:
        """Return the events of a chunk, which the answer has received already."""
        events = b""
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) == 0:
                events += self._delta(choice.get("delta") or {})
        return events

    def end(self) -> bytes:
        """Return the events that end a complete answer.

        Raises:
            ResponseTruncated: the arguments of a tool call are not a JSON object.
        """
        reason, sequence = responses.stop_reason(self._answer, self._stops)
        calls = self._answer.first_choice.tool_calls
        for call in calls.values():
            responses.tool_input(call, truncated=reason == responses.MAX_TOKENS)
        events = self._close()
        if self._late_text:
            events += self._text(TEXT, self._late_text) + self._close()
        for index in sorted(calls.keys() - {self._streamed_call}):
            arguments = calls[index]["function"]["arguments"]
            events += self._start(TOOL, responses.tool_use_block(calls[index], {})) + self._json(arguments)
            events += self._close()
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        events += event("message_delta", delta=delta, usage=responses.usage(self._answer))
        return events + event("message_stop")

    def _delta(self, delta: dict[str, Any]) -> bytes:
        events = b""
        if self._shows_thinking:
            reasoning = next((text for name in responses.REASONING_FIELDS if (text := delta.get(name))), "")
            if reasoning and self._open in ("", THINKING):
                events += self._text(THINKING, "" if self._hides_text else reasoning)
        for text in (delta.get("content"), delta.get("refusal")):
            if text and self._streamed_call is not None:
                self._late_text += text
            elif text:
                events += self._text(TEXT, text)
        for call in delta.get("tool_calls") or ():
            events += self._call(call)
        return events

    def _call(self, part: dict[str, Any]) -> bytes:
        index = part["index"]
        call = self._answer.first_choice.tool_calls[index]
        if self._streamed_call is None and call["function"]["name"]:
            self._streamed_call = index
            return self._start(TOOL, responses.tool_use_block(call, {})) + self._json(call["function"]["arguments"])
        if index != self._streamed_call:
            return b""
        return self._json((part.get("function") or {}).get("arguments") or "")

    def _text(self, kind: str, text: str) -> bytes:
        """Return the events of a text or thinking delta, in a new block if another type is open."""
        block = responses.text_block("") if kind == TEXT else responses.thinking_block("") | {"signature": ""}
        events = self._start(kind, block) if self._open != kind else b""
        if not text:
            return events
        return events + self._block_delta({"type": f"{kind}_delta", kind: text})

    def _json(self, text: str) -> bytes:
        return self._block_delta({"type": "input_json_delta", "partial_json": text}) if text else b""

    def _block_delta(self, delta: dict[str, Any]) -> bytes:
        return event("content_block_delta", index=self._index, delta=delta)

    def _start(self, kind: str, block: dict[str, Any]) -> bytes:
        events = self._close()
        self._open = kind
        self._index += 1
        return events + event("content_block_start", index=self._index, content_block=block)

    def _close(self) -> bytes:
        if not self._open:
            return b""
        events = b""
        if self._open == THINKING:
            events = self._block_delta({"type": "signature_delta", "signature": responses.UNSIGNED})
        self._open = ""
        return events + event("content_block_stop", index=self._index)
