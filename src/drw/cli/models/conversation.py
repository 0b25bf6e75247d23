"""Chat session: message history and streamed answers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from drw.cli.api import Api
from drw.cli.options import warn, write_line
from drw.cli.terminal import stream
from drw.kernel.errors import DrwError, InvalidRequest

PATH = "/v1/chat/completions"
MAX_MESSAGES = 200
MAX_CHARACTERS = 400_000
"""Bounds of the history. The oldest question and answer are dropped beyond them."""


class Conversation:
    """Message history and common request parameters."""

    def __init__(self, api: Api, request: dict[str, Any], system: str = "", *, as_json: bool = False) -> None:
        self._api = api
        self._request = request
        self._system = [{"role": "system", "content": system}] if system else []
        self._history: list[dict[str, str]] = []
        self._as_json = as_json
        self._finish_reason = ""

    def ask(self, text: str) -> None:
        """Send a message with the history and print the streamed answer. Ctrl-C stops it and keeps the received part.

        Raises:
            DrwError: no answer, or an incomplete one. The message is not kept.
        """
        self._history.append({"role": "user", "content": text})
        answer: list[str] = []
        self._finish_reason = ""
        try:
            self._trim_history()
            self._collect_answer(answer)
        except DrwError:
            self._history.pop()
            self._end_line(answer)
            raise
        except KeyboardInterrupt:
            self._store_answer(answer)
            raise
        self._store_answer(answer)
        if self._finish_reason == "length":
            warn(f"drw: the answer was cut off after {self._request['max_tokens']} tokens; --max-tokens allows more")

    def _store_answer(self, answer: list[str]) -> None:
        self._end_line(answer)
        if answer:
            self._history.append({"role": "assistant", "content": "".join(answer)})
        else:
            self._history.pop()

    def _end_line(self, answer: list[str]) -> None:
        if answer and not self._as_json and not answer[-1].endswith("\n"):
            stream("\n")

    def _collect_answer(self, answer: list[str]) -> None:
        """Append the answer's chunks to a list. If the prompt is too long for the model, drop the oldest messages."""
        while True:
            try:
                for chunk in self._chunks():
                    answer.append(chunk)
                    if not self._as_json:
                        stream(chunk)
                return
            except InvalidRequest as error:
                if error.metadata.get("code") != "context_length_exceeded" or len(self._history) < 3:
                    raise
                warn("drw: the model's context is full; the oldest message and its answer are left out from now on")
                del self._history[:2]

    def _chunks(self) -> Iterator[str]:
        body = {**self._request, "messages": [*self._system, *self._history]}
        if self._as_json:
            response = self._api.post(PATH, body)
            write_line(response)
            if text := response["choices"][0]["message"].get("content"):
                yield text
            return
        with closing(self._api.events("POST", PATH, {**body, "stream": True})) as events:
            for event in events:
                for choice in event["choices"]:
                    self._finish_reason = choice.get("finish_reason") or self._finish_reason
                    if text := choice["delta"].get("content"):
                        yield text

    def _trim_history(self) -> None:
        while len(self._history) > MAX_MESSAGES or (
            len(self._history) > 1 and sum(len(message["content"]) for message in self._history) > MAX_CHARACTERS
        ):
            del self._history[:2]


def run_conversation(conversation: Conversation) -> None:
    """Send each input line until the input ends. From a pipe, the first error ends the session too."""
    interactive = sys.stdin.isatty()
    if interactive:
        import readline  # noqa: F401 - adds line editing and history to input()

        warn("Ctrl-C ends an answer, Ctrl-D the conversation.")
    while (line := _read_line(interactive)) is not None:
        if not line.strip():
            continue
        try:
            conversation.ask(line)
        except KeyboardInterrupt:
            if not interactive:
                raise
        except DrwError as error:
            if not interactive:
                raise
            warn(f"drw: {error.message}")


def _read_line(interactive: bool) -> str | None:
    """Return the next line, or None at the end."""
    if not interactive:
        line = sys.stdin.readline()
        return line.rstrip("\r\n") if line else None
    while True:
        try:
            return input("> ")
        except KeyboardInterrupt:
            stream("\n")  # as in a shell: start a new line
        except EOFError:
            stream("\n")
            return None
