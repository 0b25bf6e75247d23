"""An answer as it grows out of an engine's chunks, and the forms in which callers get it."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import orjson

from drw.models.serving.errors import ResponseTruncated
from drw.models.serving.openai.chunks import BESIDES, TEXT, WORDS, words
from drw.models.serving.ports import Chunk, Endpoint

OBJECTS = {
    "chat/completions": ("chatcmpl", "chat.completion", "chat.completion.chunk"),
    "completions": ("cmpl", "text_completion", "text_completion"),
}
CHOICE_FIELDS = frozenset({"index", "delta", "text", "logprobs", "finish_reason"})
MESSAGE_FIELDS = frozenset({"role", *WORDS})
CALL_FIELDS = frozenset({"index", "id", "type", "function"})


@dataclass(slots=True)
class Choice:
    """One of the answers to one request."""

    pieces: list[str] = field(default_factory=list)
    extra: dict[str, str] = field(default_factory=dict)
    """Further text of the message: a refusal, the reasoning."""
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    logprobs: dict[str, list[Any]] = field(default_factory=dict)
    finish_reason: str | None = None
    of_message: dict[str, Any] = field(default_factory=dict)
    of_choice: dict[str, Any] = field(default_factory=dict)
    """What OpenAI's API does not have, and an upstream sends: thought signatures, details of the reasoning."""
    _positions: dict[int, int] = field(default_factory=dict)
    """The call that an upstream's index stands for now."""

    def add(self, part: dict[str, Any]) -> None:
        """Take in one chunk's part of the choice."""
        for name, text in words(part).items():
            if name in TEXT:
                self.pieces.append(text)
            elif name in BESIDES:
                self.extra[name] = self.extra.get(name, "") + text
            else:
                for call in text:
                    self._add_call(call)
        for name, more in (part.get("logprobs") or {}).items():
            if isinstance(more, list):
                self.logprobs.setdefault(name, []).extend(more)
        self.finish_reason = part.get("finish_reason") or self.finish_reason
        if not part.keys() <= CHOICE_FIELDS:
            _keep(self.of_choice, part, CHOICE_FIELDS)
        if (delta := part.get("delta")) and not delta.keys() <= MESSAGE_FIELDS:
            _keep(self.of_message, delta, MESSAGE_FIELDS)

    def message(self) -> dict[str, Any]:
        """Return the choice as a chat message."""
        text = "".join(self.pieces)
        calls = [self.calls[index] for index in sorted(self.calls)]
        message = {"role": "assistant", "content": None if calls and not text else text, "refusal": None}
        return message | self.extra | self.of_message | ({"tool_calls": calls} if calls else {})

    def _add_call(self, part: dict[str, Any]) -> None:
        """Take in a part of a call, and give it the call's own index and id where the upstream has not."""
        position, function = part.get("index") or 0, part.get("function") or {}
        call = self.calls.get(self._positions.get(position, position))
        if call is None or _is_another(call, part.get("id"), function.get("name")):
            self._positions[position] = index = position if call is None else max(self.calls) + 1
            part["id"] = part.get("id") or f"call_{secrets.token_hex(12)}"
            call = self.calls[index] = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        part["index"] = self._positions[position]
        call["id"] = call["id"] or part["id"]
        call["function"]["name"] = call["function"]["name"] or function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""
        if not part.keys() <= CALL_FIELDS:
            _keep(call, part, CALL_FIELDS)


def _is_another(call: dict[str, Any], id_: str | None, name: str | None) -> bool:
    """Tell whether a part begins a further call at the index of this one, as some upstreams give each the index 0.

    Only the beginning of a call has a name; some upstreams give each of its parts another id.
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


def _keep(stored: dict[str, Any], part: dict[str, Any], known: frozenset[str]) -> None:
    """Add to what is kept the fields of a part that are not among the known ones."""
    for name in part.keys() - known:
        old, new = stored.get(name), part[name]
        if isinstance(old, list) and isinstance(new, list):
            stored[name] = old + new
        elif isinstance(old, dict) and isinstance(new, dict):
            stored[name] = old | new
        elif new is not None:
            stored[name] = new


class Answer:
    """The answer to one request, so far."""

    def __init__(self, endpoint: Endpoint, model: str, choices: int) -> None:
        prefix, self._whole, self._part = OBJECTS[endpoint]
        self._chat = endpoint == "chat/completions"
        self._head: dict[str, Any] = {"id": f"{prefix}-{secrets.token_hex(12)}", "created": int(time.time())}
        self.choices = choices
        """How many answers are asked for."""
        self.begin(model)

    def begin(self, model: str) -> None:
        """Begin it, or begin it again, with the answer of this model."""
        self._head["model"] = model
        self._head.pop("system_fingerprint", None)
        self._choices = [Choice() for _ in range(self.choices)]
        self.fresh = True
        """Whether one model gives all of it."""
        self.usage: dict[str, Any] | None = None
        """As the engine counted; None where it did not say."""

    def go_on(self, model: str) -> None:
        """Go on with what this model says."""
        self._head["model"] = model
        self.fresh = False
        self.usage = None

    @property
    def model(self) -> str:
        """The model that gives the answer, or the rest of it."""
        return str(self._head["model"])

    @property
    def plain(self) -> bool:
        """Whether there is nothing but text: no call, no refusal, no reasoning."""
        return not any(choice.calls or choice.extra for choice in self._choices)

    def add(self, chunk: Chunk) -> None:
        """Take in one chunk."""
        if usage := chunk.get("usage"):
            self.usage = usage
        for part in chunk.get("choices") or ():
            if (index := part.get("index", 0)) < len(self._choices):
                self._choices[index].add(part)
        if fingerprint := chunk.get("system_fingerprint"):
            self._head["system_fingerprint"] = fingerprint

    def check_whole(self) -> None:
        """Raise where the engine stopped without saying that a choice was at its end."""
        if any(choice.finish_reason is None for choice in self._choices):
            raise ResponseTruncated("the engine ended without finishing the answer: try again")

    @property
    def text(self) -> str:
        """Every word of the answer: the text, then the tool calls as JSON; choices follow each other."""
        return "".join(
            "".join(c.pieces)
            + "".join(c.extra.values())
            + (orjson.dumps(list(c.calls.values())).decode() * bool(c.calls))
            for c in self._choices
        )

    @property
    def finish_reason(self) -> str:
        """Why the first choice ended; empty while it has not."""
        return self._choices[0].finish_reason or ""

    @property
    def id(self) -> str:
        """The answer's id, which callers see."""
        return str(self._head["id"])

    @property
    def finish_reasons(self) -> list[str]:
        """Why each choice ended; empty for one that has not."""
        return [choice.finish_reason or "" for choice in self._choices]

    def messages(self) -> list[dict[str, Any]]:
        """Return each choice as a chat message."""
        return [choice.message() for choice in self._choices]

    def event(self, chunk: Chunk, *, with_usage: bool) -> bytes | None:
        """Return a chunk as the caller gets it; None where there is nothing in it for the caller."""
        if not (parts := chunk.get("choices")):
            return None
        shown = {**self._head, "object": self._part, "choices": parts}
        if with_usage:
            shown["usage"] = None
        return b"data: " + orjson.dumps(shown) + b"\n\n"

    def usage_event(self) -> bytes:
        """Return the last event before `[DONE]`, for those who asked for the tokens."""
        shown = {**self._head, "object": self._part, "choices": [], "usage": self.usage}
        return b"data: " + orjson.dumps(shown) + b"\n\n"

    def body(self) -> bytes:
        """Return the whole answer."""
        choices = [self._whole_choice(index, choice) for index, choice in enumerate(self._choices)]
        return orjson.dumps({**self._head, "object": self._whole, "choices": choices, "usage": self.usage})

    def _whole_choice(self, index: int, choice: Choice) -> dict[str, Any]:
        content = {"message": choice.message()} if self._chat else {"text": "".join(choice.pieces)}
        empty = {"content": None, "refusal": None} if self._chat else {}
        logprobs = empty | choice.logprobs if choice.logprobs else None
        ended = {"logprobs": logprobs, "finish_reason": choice.finish_reason}
        return {"index": index, **choice.of_choice, **content, **ended}
