"""Prompt of an answer: the question with numbered sources, shortened to a token budget."""

from __future__ import annotations

import re
from collections.abc import Sequence

from drw.api.models.v1.serving_pb2 import ChatMessage
from drw.api.rag.v1.vector_store_pb2 import Passage

SYSTEM = (
    "Answer the question in one or two sentences, from the numbered sources only. Copy each figure exactly as it "
    "stands, with its unit, and put the number of its source in brackets after it, like [1]. "
    "If the sources do not have the answer, say that they do not."
)
TOKEN = re.compile(r"\d|[^\W\d_]{1,5}|[^\w\s]|_")
WORD = re.compile(r"\w+")


def messages(question: str, passages: Sequence[Passage], tokens: int) -> list[ChatMessage]:
    """Return the chat messages of a question, with about `tokens` tokens of sources."""
    tokens_per_source = tokens // max(1, len(passages))
    sources = "\n\n".join(
        _source(number, passage, question, tokens_per_source) for number, passage in enumerate(passages, 1)
    )
    user_message = f"Sources:\n\n{sources}\n\nQuestion: {question}\nAnswer:"
    return [ChatMessage(role="system", content=SYSTEM), ChatMessage(role="user", content=user_message)]


def estimate(text: str) -> int:
    """Estimate the number of tokens of a text, on the high side: small models have one token for each digit."""
    return len(TOKEN.findall(text))


def _source(number: int, passage: Passage, question: str, tokens: int) -> str:
    context = passage.context.partition("\n")[0]
    head = f"[{number}] {context or passage.title}, page {passage.page}"
    return f"{head}\n{shorten(passage.text, question, tokens - estimate(head))}"


def shorten(text: str, question: str, tokens: int) -> str:
    """Return the lines of a text that share most words with the question, in order, within a number of tokens."""
    if estimate(text) <= tokens:
        return text
    question_words = _words(question)
    lines = text.splitlines()
    ranked = sorted(range(len(lines)), key=lambda n: (-len(question_words & _words(lines[n])), n))
    selected: set[int] = set()
    for number in ranked:
        if (cost := estimate(lines[number])) <= tokens:
            selected.add(number)
            tokens -= cost
    return "\n".join(line for number, line in enumerate(lines) if number in selected) or _cut(lines[ranked[0]], tokens)


def _words(text: str) -> set[str]:
    return {word.lower() for word in WORD.findall(text)}


def _cut(line: str, tokens: int) -> str:
    ends = [match.end() for match in TOKEN.finditer(line)]
    return line[: ends[max(0, min(tokens, len(ends)) - 1)]] if ends else ""
