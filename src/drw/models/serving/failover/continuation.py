"""Continues a truncated answer at another engine, without repeating text at the join."""

from __future__ import annotations

from typing import Any

from drw.models.serving.openai.responses import Answer
from drw.models.serving.ports import Body, Chunk, Endpoint

ECHO_CHARACTERS = 16
"""A continuation that begins with the whole text so far repeats it; a shorter text may well occur twice."""
NO = "none"


def may_continue(endpoint: Endpoint, body: Body, answer: Answer) -> bool:
    """Tell whether the text of an answer is all that a continuation needs."""
    if answer.choices != 1 or not answer.plain or not answer.text:
        return False
    if not isinstance(body.get("prompt", ""), str):  # text cannot be put after tokens
        return False
    if body.get("logprobs") or (body.get("tools") and body.get("tool_choice") != "none"):
        return False
    return bool((body.get("response_format") or {}).get("type", "text") == "text")


def continued(endpoint: Endpoint, body: Body, text: str, tokens: int, how: str) -> Body | None:
    """Return the request that goes on after `text`; None where no token is left to ask for.

    The text is sent without the white space at its end, which chat templates take off anyway.
    """
    sent = dict(body)
    for name in ("max_tokens", "max_completion_tokens"):
        if name in sent:
            sent[name] -= tokens
            if sent[name] <= 0:
                return None
    if not (begun := text.rstrip()):
        return sent
    if endpoint == "completions":
        return sent | {"prompt": body["prompt"] + begun}
    messages = list(body["messages"])
    message: dict[str, Any] = {"role": "assistant", "content": begun}
    if how == "assistant" and messages[-1]["role"] == "assistant" and isinstance(messages[-1].get("content"), str):
        message["content"] = messages.pop()["content"] + begun  # the caller's own beginning, and what followed
    if how == "prefix":
        message |= {"prefix": True}
    if how == "continue_final_message":
        sent |= {"continue_final_message": True, "add_generation_prompt": False}
    return sent | {"messages": [*messages, message]}


class Continuation:
    """Removes from a continuation what the caller has already: the repeated text, or the white space at its end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._begun = text.rstrip()
        self._space = text[len(self._begun) :]
        self._held = ""
        self._may_echo = len(self._begun) >= ECHO_CHARACTERS
        self.closed = False
        """Whether everything from now on is new."""

    def take(self, piece: str) -> str:
        """Return the new part of the next piece; what may turn out to be a repetition is held back."""
        if self.closed:
            return piece
        self._held += piece
        if self._may_echo:
            if len(self._held) < len(self._begun) and self._begun.startswith(self._held):
                return ""
            if self._held.startswith(self._begun):
                self._held = self._held[len(self._begun) :]
            self._may_echo = False
        if len(self._held) < len(self._space) and self._space.startswith(self._held):
            return ""
        return self.rest()

    def rest(self) -> str:
        """Return what is held back; nothing more is taken out afterwards."""
        self.closed = True
        held, self._held = self._held, ""
        same = 0
        while same < min(len(held), len(self._space)) and held[same] == self._space[same]:
            same += 1
        return held[same:]

    def join(self, chunk: Chunk) -> None:
        """Leave in a chunk what is new."""
        for choice in chunk.get("choices") or ():
            delta = choice.setdefault("delta", {}) if "text" not in choice else choice
            name = "content" if delta is not choice else "text"
            new = self.take(delta.get(name) or "")
            if choice.get("finish_reason") and not self.closed:
                new += self.rest()
            if new or delta.get(name):
                delta[name] = new
            delta.pop("role", None)
