"""Builds OpenAI's responses and stream events from the chunks of an engine."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import orjson

from drw.models.serving.errors import ResponseTruncated
from drw.models.serving.openai.chunks import EXTRA_TEXT_FIELDS, OUTPUT_FIELDS, TEXT_FIELDS, output_fields
from drw.models.serving.ports import Chunk, Endpoint

OBJECTS = {
    "chat/completions": ("chatcmpl", "chat.completion", "chat.completion.chunk"),
    "completions": ("cmpl", "text_completion", "text_completion"),
}
CHOICE_FIELDS = frozenset({"index", "delta", "text", "logprobs", "finish_reason"})
MESSAGE_FIELDS = frozenset({"role", *OUTPUT_FIELDS})
CALL_FIELDS = frozenset({"index", "id", "type", "function"})


@dataclass(slots=True)
class Choice:
    """One choice of an answer."""

    text_parts: list[str] = field(default_factory=list)
    extra: dict[str, str] = field(default_factory=dict)
    """Further text of the message by field name: refusal, reasoning."""
    tool_calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    logprobs: dict[str, list[Any]] = field(default_factory=dict)
    finish_reason: str | None = None
    message_extensions: dict[str, Any] = field(default_factory=dict)
    choice_extensions: dict[str, Any] = field(default_factory=dict)
    """Fields that are not OpenAI's, such as thought signatures and details of the reasoning."""
    _call_by_index: dict[int, int] = field(default_factory=dict)
    """Indices of tool calls by the index that the upstream sends."""

    def add(self, part: dict[str, Any]) -> None:
        """Add the choice of one chunk."""
        for name, text in output_fields(part).items():
            if name in TEXT_FIELDS:
                self.text_parts.append(text)
            elif name in EXTRA_TEXT_FIELDS:
                self.extra[name] = self.extra.get(name, "") + text
            else:
                for call in text:
                    self._add_call(call)
        for name, values in (part.get("logprobs") or {}).items():
            if isinstance(values, list):
                self.logprobs.setdefault(name, []).extend(values)
        self.finish_reason = part.get("finish_reason") or self.finish_reason
        if not part.keys() <= CHOICE_FIELDS:
            _merge_extensions(self.choice_extensions, part, CHOICE_FIELDS)
        if (delta := part.get("delta")) and not delta.keys() <= MESSAGE_FIELDS:
            _merge_extensions(self.message_extensions, delta, MESSAGE_FIELDS)

    def message(self) -> dict[str, Any]:
        """Return the choice as a chat message."""
        text = "".join(self.text_parts)
        tool_calls = [self.tool_calls[index] for index in sorted(self.tool_calls)]
        message = {"role": "assistant", "content": None if tool_calls and not text else text, "refusal": None}
        return message | self.extra | self.message_extensions | ({"tool_calls": tool_calls} if tool_calls else {})

    def _add_call(self, part: dict[str, Any]) -> None:
        """Add a delta of a tool call; correct its index and id if the upstream does not set them."""
        position, function = part.get("index") or 0, part.get("function") or {}
        call = self.tool_calls.get(self._call_by_index.get(position, position))
        if call is None or _starts_new_call(call, part.get("id"), function.get("name")):
            self._call_by_index[position] = index = position if call is None else max(self.tool_calls) + 1
            part["id"] = part.get("id") or f"call_{secrets.token_hex(12)}"
            call = self.tool_calls[index] = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        part["index"] = self._call_by_index[position]
        call["id"] = call["id"] or part["id"]
        call["function"]["name"] = call["function"]["name"] or function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""
        if not part.keys() <= CALL_FIELDS:
            _merge_extensions(call, part, CALL_FIELDS)


def _starts_new_call(call: dict[str, Any], id_: str | None, name: str | None) -> bool:
    """Return whether a delta starts another tool call with the same index; some upstreams send index 0 for all calls.

    Only the first delta of a call has a name. Some upstreams send a different id in each delta.
    """
    if not name or not call["function"]["name"]:
        return False
    if id_:
        return bool(id_ != call["id"])
    return bool(name != call["function"]["name"]) or _is_json(call["function"]["arguments"])


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _merge_extensions(stored: dict[str, Any], part: dict[str, Any], standard_fields: frozenset[str]) -> None:
    """Merge the fields that are not standard into the stored ones."""
    for name in part.keys() - standard_fields:
        old, new = stored.get(name), part[name]
        if isinstance(old, list) and isinstance(new, list):
            stored[name] = old + new
        elif isinstance(old, dict) and isinstance(new, dict):
            stored[name] = old | new
        elif new is not None:
            stored[name] = new


class Answer:
    """The answer to one request, built from chunks."""

    def __init__(self, endpoint: Endpoint, model: str, choices: int, id_: str = "") -> None:
        prefix, self._object, self._chunk_object = OBJECTS[endpoint]
        self._chat = endpoint == "chat/completions"
        self._head: dict[str, Any] = {"id": id_ or f"{prefix}-{secrets.token_hex(12)}", "created": int(time.time())}
        self.choices = choices
        """The number of choices."""
        self.start(model)

    def start(self, model: str) -> None:
        """Start or restart the answer with this model."""
        self._head["model"] = model
        self._head.pop("system_fingerprint", None)
        self._choices = [Choice() for _ in range(self.choices)]
        self.single_model = True
        """Whether one model writes all of the answer."""
        self.usage: dict[str, Any] | None = None
        """The usage that the engine reported, or None."""

    def continue_with(self, model: str) -> None:
        """Continue the answer with another model."""
        self._head["model"] = model
        self.single_model = False
        self.usage = None

    @property
    def model(self) -> str:
        """The model that writes the answer, or its continuation."""
        return str(self._head["model"])

    @property
    def text_only(self) -> bool:
        """Whether the answer is only text, without tool calls, refusal or reasoning."""
        return not any(choice.tool_calls or choice.extra for choice in self._choices)

    def add(self, chunk: Chunk) -> None:
        """Add one chunk."""
        if usage := chunk.get("usage"):
            self.usage = usage
        for part in chunk.get("choices") or ():
            if (index := part.get("index", 0)) < len(self._choices):
                self._choices[index].add(part)
        if fingerprint := chunk.get("system_fingerprint"):
            self._head["system_fingerprint"] = fingerprint

    def check_complete(self) -> None:
        """Raise `ResponseTruncated` if a choice has no finish reason."""
        if any(choice.finish_reason is None for choice in self._choices):
            raise ResponseTruncated("the engine ended without finishing the answer: try again")

    @property
    def text(self) -> str:
        """The complete output: text, further text and tool calls as JSON, of all choices."""
        return "".join(
            "".join(c.text_parts)
            + "".join(c.extra.values())
            + (orjson.dumps(list(c.tool_calls.values())).decode() * bool(c.tool_calls))
            for c in self._choices
        )

    @property
    def finish_reason(self) -> str:
        """The finish reason of the first choice; empty before its end."""
        return self._choices[0].finish_reason or ""

    @property
    def id(self) -> str:
        """The id of the response."""
        return str(self._head["id"])

    @property
    def first_choice(self) -> Choice:
        """The first choice of the answer so far."""
        return self._choices[0]

    @property
    def finish_reasons(self) -> list[str]:
        """The finish reason of each choice; empty before its end."""
        return [choice.finish_reason or "" for choice in self._choices]

    def messages(self) -> list[dict[str, Any]]:
        """Return each choice as a chat message."""
        return [choice.message() for choice in self._choices]

    def event(self, chunk: Chunk, *, with_usage: bool) -> bytes | None:
        """Return the event of a chunk for the caller; None if it has no choices."""
        if not (parts := chunk.get("choices")):
            return None
        event_body = {**self._head, "object": self._chunk_object, "choices": parts}
        if with_usage:
            event_body["usage"] = None
        return b"data: " + orjson.dumps(event_body) + b"\n\n"

    def usage_event(self) -> bytes:
        """Return the usage event at the end of a stream."""
        event_body = {**self._head, "object": self._chunk_object, "choices": [], "usage": self.usage}
        return b"data: " + orjson.dumps(event_body) + b"\n\n"

    def body(self) -> bytes:
        """Return the body of a response that is not streamed."""
        choices = [self._choice_object(index, choice) for index, choice in enumerate(self._choices)]
        return orjson.dumps({**self._head, "object": self._object, "choices": choices, "usage": self.usage})

    def _choice_object(self, index: int, choice: Choice) -> dict[str, Any]:
        content = {"message": choice.message()} if self._chat else {"text": "".join(choice.text_parts)}
        empty = {"content": None, "refusal": None} if self._chat else {}
        logprobs = empty | choice.logprobs if choice.logprobs else None
        end_fields = {"logprobs": logprobs, "finish_reason": choice.finish_reason}
        return {"index": index, **choice.choice_extensions, **content, **end_fields}
