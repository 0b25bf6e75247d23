"""Output of a response: items and the events of its stream.

Source: OpenAI API reference, "Streaming events" of responses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson

from drw.models.serving.openai.responses import Answer
from drw.models.serving.ports import Chunk
from drw.models.serving.responses_api.objects import COMPLETED, IN_PROGRESS, Item, new_id

REASONING_FIELDS = ("reasoning_content", "reasoning")
REASONING, MESSAGE, CALL, SEARCH = "reasoning", "message", "function_call", "file_search_call"
PREFIXES = {REASONING: "rs", MESSAGE: "msg", CALL: "fc"}
TEXT, REFUSAL = "output_text", "refusal"

Key = tuple[str, int]
"""Kind of an item, and the index of a call."""
Annotate = Callable[[str], list[dict[str, Any]]]
"""Returns the annotations of a text."""


class Events:
    """Numbers the events of one stream."""

    def __init__(self) -> None:
        self._number = -1

    def event(self, kind: str, **fields: Any) -> bytes:
        """Return one server-sent event."""
        self._number += 1
        data = {"type": kind, "sequence_number": self._number, **fields}
        return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"


class Output:
    """The output items of an answer, in the order in which the model began them."""

    def __init__(self, events: Events, search: Item | None, annotate: Annotate) -> None:
        self._events = events
        self._search = search
        self._annotate = annotate
        self._ids: dict[Key, str] = {}
        self._parts: list[str] = []
        """The content parts of the message that have begun."""

    def searched(self) -> bytes:
        """Return the events of the file search before the answer."""
        if (searched := self._search) is None:
            return b""
        begun = {**searched, "status": IN_PROGRESS, "results": None}
        position = {"output_index": 0, "item_id": searched["id"]}
        events = self._events.event("response.output_item.added", output_index=0, item=begun)
        for step in (IN_PROGRESS, "searching", COMPLETED):
            events += self._events.event(f"response.{SEARCH}.{step}", **position)
        return events + self._events.event("response.output_item.done", output_index=0, item=searched)

    def feed(self, chunk: Chunk) -> bytes:
        """Return the events of a chunk."""
        events = b""
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) == 0:
                events += b"".join(self._delta(choice.get("delta") or {}, choice.get("logprobs")))
        return events

    def end(self, answer: Answer, status: str) -> bytes:
        """Return the events that end all items of a complete answer."""
        items = self.items(answer, status)
        events = b""
        for (kind, _), item in zip(self._ids, items[self._offset :], strict=True):
            position = {"item_id": item["id"], "output_index": items.index(item)}
            if kind == CALL:
                arguments = {"name": item["name"], "arguments": item["arguments"]}
                events += self._events.event("response.function_call_arguments.done", **position, **arguments)
            else:
                events += b"".join(self._end_content(item, position))
            events += self._events.event("response.output_item.done", output_index=position["output_index"], item=item)
        return events

    def items(self, answer: Answer, status: str) -> list[Item]:
        """Return the items of a complete answer."""
        choice = answer.first_choice
        if any(choice.extra.get(name) for name in REASONING_FIELDS):
            self._begin(REASONING)
        if choice.text_parts or choice.extra.get(REFUSAL):
            self._begin(MESSAGE)
        for index in sorted(choice.tool_calls):
            self._begin(CALL, index)
        items = [self._item(key, answer, COMPLETED) for key in self._ids]
        if items:
            items[-1]["status"] = status
        return [self._search, *items] if self._search else items

    @property
    def _offset(self) -> int:
        return int(self._search is not None)

    def _begin(self, kind: str, index: int = 0) -> int | None:
        """Begin an item; return its position, or None if it has begun already."""
        if (kind, index) in self._ids:
            return None
        self._ids[kind, index] = new_id(PREFIXES[kind])
        return len(self._ids) - 1 + self._offset

    def _position(self, kind: str, index: int = 0) -> dict[str, Any]:
        return {
            "item_id": self._ids[kind, index],
            "output_index": list(self._ids).index((kind, index)) + self._offset,
        }

    def _delta(self, delta: dict[str, Any], logprobs: Any) -> Iterator[bytes]:
        if reasoning := next((text for name in REASONING_FIELDS if (text := delta.get(name))), ""):
            yield from self._reasoning(reasoning)
        if text := delta.get("content"):
            yield from self._part(TEXT, text, logprobs)
        if refusal := delta.get(REFUSAL):
            yield from self._part(REFUSAL, refusal, None)
        for call in delta.get("tool_calls") or ():
            yield from self._call(call)

    def _added(self, position: dict[str, Any], item: Item) -> bytes:
        return self._events.event("response.output_item.added", output_index=position["output_index"], item=item)

    def _reasoning(self, text: str) -> Iterator[bytes]:
        begun = self._begin(REASONING) is not None
        position = self._position(REASONING)
        if begun:
            item = {"id": position["item_id"], "type": REASONING, "summary": [], "content": [], "status": IN_PROGRESS}
            yield self._added(position, item)
            part = {"type": "reasoning_text", "text": ""}
            yield self._events.event("response.content_part.added", **position, content_index=0, part=part)
        yield self._events.event("response.reasoning_text.delta", **position, content_index=0, delta=text)

    def _part(self, kind: str, text: str, logprobs: Any) -> Iterator[bytes]:
        begun = self._begin(MESSAGE) is not None
        position = self._position(MESSAGE)
        if begun:
            item = {"id": position["item_id"], "type": MESSAGE, "role": "assistant", "content": []}
            yield self._added(position, item | {"status": IN_PROGRESS})
        if kind not in self._parts:
            self._parts.append(kind)
            part = _text_part("", [], []) if kind == TEXT else {"type": REFUSAL, REFUSAL: ""}
            index = len(self._parts) - 1
            yield self._events.event("response.content_part.added", **position, content_index=index, part=part)
        position["content_index"] = self._parts.index(kind)
        if kind == TEXT:
            tokens = _token_logprobs((logprobs or {}).get("content"))
            yield self._events.event("response.output_text.delta", **position, delta=text, logprobs=tokens)
        else:
            yield self._events.event("response.refusal.delta", **position, delta=text)

    def _call(self, part: dict[str, Any]) -> Iterator[bytes]:
        index, function = part["index"], part.get("function") or {}
        begun = self._begin(CALL, index) is not None
        position = self._position(CALL, index)
        if begun:
            item = {"id": position["item_id"], "type": CALL, "call_id": part["id"], "name": function.get("name") or ""}
            yield self._added(position, item | {"arguments": "", "status": IN_PROGRESS})
        if arguments := function.get("arguments"):
            yield self._events.event("response.function_call_arguments.delta", **position, delta=arguments)

    def _end_content(self, item: Item, position: dict[str, Any]) -> Iterator[bytes]:
        for index, part in enumerate(item["content"]):
            at = position | {"content_index": index}
            if part["type"] == TEXT:
                for number, annotation in enumerate(part["annotations"]):
                    fields = {"annotation_index": number, "annotation": annotation}
                    yield self._events.event("response.output_text.annotation.added", **at, **fields)
                texts = {"text": part["text"], "logprobs": part["logprobs"]}
                yield self._events.event("response.output_text.done", **at, **texts)
            elif part["type"] == REFUSAL:
                yield self._events.event("response.refusal.done", **at, refusal=part[REFUSAL])
            else:
                yield self._events.event("response.reasoning_text.done", **at, text=part["text"])
            yield self._events.event("response.content_part.done", **at, part=part)

    def _item(self, key: Key, answer: Answer, status: str) -> Item:
        kind, index = key
        choice, head = answer.first_choice, {"id": self._ids[key], "type": kind}
        if kind == CALL:
            call = choice.tool_calls[index]
            return head | {"call_id": call["id"], **call["function"], "status": status}
        if kind == REASONING:
            text = next(text for name in REASONING_FIELDS if (text := choice.extra.get(name)))
            content = [{"type": "reasoning_text", "text": text}]
            return head | {"summary": [], "content": content, "status": status}
        return head | {"role": "assistant", "content": self._content(answer), "status": status}

    def _content(self, answer: Answer) -> list[dict[str, Any]]:
        choice = answer.first_choice
        text, parts = "".join(choice.text_parts), {}
        if text:
            logprobs = _token_logprobs(choice.logprobs.get("content"))
            parts[TEXT] = _text_part(text, self._annotate(text), logprobs)
        if refusal := choice.extra.get(REFUSAL):
            parts[REFUSAL] = {"type": REFUSAL, REFUSAL: refusal}
        return [parts[kind] for kind in dict.fromkeys([*self._parts, *parts])]


def _text_part(text: str, annotations: list[dict[str, Any]], logprobs: list[Any]) -> dict[str, Any]:
    return {"type": TEXT, "text": text, "annotations": annotations, "logprobs": logprobs}


def _token_logprobs(tokens: Any) -> list[dict[str, Any]]:
    """Return log probabilities of tokens with the fields of the Responses API."""
    return [
        {
            "token": token.get("token"),
            "bytes": token.get("bytes") or [],
            "logprob": token.get("logprob"),
            "top_logprobs": token.get("top_logprobs") or [],
        }
        for token in tokens or ()
    ]
