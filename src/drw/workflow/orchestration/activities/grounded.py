"""Sentences of a generated text with the quotes that support them, as activities output and render them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import orjson

from drw.grounding import sentences
from drw.workflow.orchestration.activities.activity import Arguments

MAX_BYTES = 12_000
"""Maximum bytes of the sentences in the output of a step, as JSON."""
NOT_CHECKED = "(Further sentences are not checked.)"
MARKS = re.compile(r"^(?:[#>*]+\s+)+")


class Sentence(Arguments):
    """A sentence; `quote` is a part of `page` of `file`, as it is written there. Without support both are empty."""

    text: str
    supported: bool
    quote: str = ""
    file: str = ""
    title: str = ""
    page: int = 0


async def ground(text: str, passages: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the sentences of a text, checked against passages: texts, or objects as `retrieve` returns them.

    Of a long text, the last item says that further sentences are not checked.
    """
    texts = [passage_text(passage) for passage in passages]
    checked = await asyncio.to_thread(sentences.check, text, texts)
    grounded: list[dict[str, Any]] = []
    size = 0
    for sentence in checked:
        grounded.append(_sentence(sentence, passages).model_dump())
        size += len(orjson.dumps(grounded[-1]))
        if size > MAX_BYTES:
            return [*grounded[:-1], Sentence(text=NOT_CHECKED, supported=False).model_dump()]
    return grounded


def passage_text(passage: Any) -> str:
    """Return the text of a passage."""
    return str(passage.get("text", "")) if isinstance(passage, dict) else str(passage)


def render(grounded: Sequence[Sentence]) -> list[str]:
    """Return paragraphs of Markdown: each sentence with its quote, or marked as not supported."""
    return [_paragraph(sentence) for sentence in grounded]


def quote_block(text: str, source: str, page: int) -> str:
    """Return a quote of Markdown, with its source."""
    return f"> {_plain(text)}\n> — {single_line(source)}, page {page}"


def single_line(text: str) -> str:
    """Return a text without line breaks."""
    return " ".join(text.split())


def _sentence(sentence: sentences.Sentence, passages: Sequence[Any]) -> Sentence:
    if sentence.passage is None:
        return Sentence(text=sentence.text, supported=False)
    passage = passages[sentence.passage]
    source = passage if isinstance(passage, dict) else {}
    return Sentence(
        text=sentence.text,
        supported=True,
        quote=sentence.quote,
        file=str(source.get("file", "")),
        title=str(source.get("title", "")),
        page=page if isinstance(page := source.get("page"), int) else 0,
    )


def _paragraph(sentence: Sentence) -> str:
    text = _plain(sentence.text)
    if not sentence.supported:
        return f"_Not supported:_ {text}"
    quote = quote_block(sentence.quote, sentence.title or sentence.file, sentence.page)
    return quote if text == _plain(sentence.quote) else f"{text}\n\n{quote}"


def _plain(text: str) -> str:
    """Return a text in one line, without the marks of a heading or quote at its beginning."""
    return MARKS.sub("", single_line(text))
