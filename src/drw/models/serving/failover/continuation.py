"""Continues a truncated answer at another engine, without repeated text."""

from __future__ import annotations

from typing import Any

from drw.models.serving.openai.responses import Answer
from drw.models.serving.ports import Body, Chunk, Endpoint

ECHO_CHARACTERS = 16
"""A continuation that starts with the previous text repeats it, if that is at least this long."""
NO_PREFILL = "none"


def may_continue(endpoint: Endpoint, body: Body, answer: Answer) -> bool:
    """Return whether the answer can be continued: a single choice with nothing but text."""
    if answer.choices != 1 or not answer.text_only or not answer.text:
        return False
    if not isinstance(body.get("prompt", ""), str):  # text cannot be appended to token ids
        return False
    if body.get("logprobs") or (body.get("tools") and body.get("tool_choice") != "none"):
        return False
    return bool((body.get("response_format") or {}).get("type", "text") == "text")


def continuation_request(endpoint: Endpoint, body: Body, text: str, tokens: int, prefill: str) -> Body | None:
    """Return the request that continues after `text`; None if no tokens are left.

    Trailing white space of the text is not sent, since chat templates remove it.
    """
    request = dict(body)
    for name in ("max_tokens", "max_completion_tokens"):
        if name in request:
            request[name] -= tokens
            if request[name] <= 0:
                return None
    if not (stripped := text.rstrip()):
        return request
    if endpoint == "completions":
        return request | {"prompt": body["prompt"] + stripped}
    messages = list(body["messages"])
    message: dict[str, Any] = {"role": "assistant", "content": stripped}
    if prefill == "assistant" and messages[-1]["role"] == "assistant" and isinstance(messages[-1].get("content"), str):
        message["content"] = messages.pop()["content"] + stripped  # the caller's partial message and its continuation
    if prefill == "prefix":
        message |= {"prefix": True}
    if prefill == "continue_final_message":
        request |= {"continue_final_message": True, "add_generation_prompt": False}
    return request | {"messages": [*messages, message]}


class Continuation:
    """Removes the text that the caller has already from a continuation: repeated text and white space."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._stripped = text.rstrip()
        self._trailing_space = text[len(self._stripped) :]
        self._buffer = ""
        self._may_echo = len(self._stripped) >= ECHO_CHARACTERS
        self.complete = False
        """Whether all further text is new."""

    def feed(self, text: str) -> str:
        """Return the new part of the next text; a possible repetition is buffered."""
        if self.complete:
            return text
        self._buffer += text
        if self._may_echo:
            if len(self._buffer) < len(self._stripped) and self._stripped.startswith(self._buffer):
                return ""
            if self._buffer.startswith(self._stripped):
                self._buffer = self._buffer[len(self._stripped) :]
            self._may_echo = False
        if len(self._buffer) < len(self._trailing_space) and self._trailing_space.startswith(self._buffer):
            return ""
        return self.flush()

    def flush(self) -> str:
        """Return the buffered text; further text is not changed."""
        self.complete = True
        buffered, self._buffer = self._buffer, ""
        repeated = 0
        while (
            repeated < min(len(buffered), len(self._trailing_space))
            and buffered[repeated] == self._trailing_space[repeated]
        ):
            repeated += 1
        return buffered[repeated:]

    def deduplicate(self, chunk: Chunk) -> None:
        """Remove repeated text from a chunk."""
        for choice in chunk.get("choices") or ():
            delta = choice.setdefault("delta", {}) if "text" not in choice else choice
            name = "content" if delta is not choice else "text"
            new = self.feed(delta.get(name) or "")
            if choice.get("finish_reason") and not self.complete:
                new += self.flush()
            if new or delta.get(name):
                delta[name] = new
            delta.pop("role", None)
