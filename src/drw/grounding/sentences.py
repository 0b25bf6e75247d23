"""Sentences of a generated text, each with the quote of a passage that supports it.

The check compares words and figures. It does not understand the text: a sentence that uses the words of a quote to say
something else passes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from drw.grounding import figures, quotes

MIN_WORDS = 3
"""A sentence with fewer words is supported only by a quote of the same words."""
MIN_SHARED_WORDS = 0.75
"""Minimum share of the words of a sentence that its quote contains."""
MIN_LETTERS = 4
"""Shorter words are in most sentences, so that they support none."""
MARKER = re.compile(r"\[\d{1,3}\]\s*")
"""The number of a passage in a prompt, which models copy."""
MIN_CHARACTERS = 2
"""Shorter sentences are the letters and digits of lists."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of a text; `passage` is the index of the passage that contains `quote` as it is written."""

    text: str
    passage: int | None = None
    quote: str = ""

    @property
    def supported(self) -> bool:
        """Whether a quote supports it."""
        return self.passage is not None


def check(text: str, passages: Sequence[str]) -> list[Sentence]:
    """Return the different sentences of a text in order, with the quotes that support them.

    A quote supports a sentence if it contains all of its figures and most of its words.
    """
    return [_supported(sentence, passages) for sentence in _different(text)]


def _different(text: str) -> Iterator[str]:
    seen: set[str] = set()
    for match in quotes.SEGMENT.finditer(MARKER.sub("", text)):
        sentence = " ".join(match[0].split())
        words = " ".join(quotes.WORD.findall(sentence.lower()))
        if len(words) >= MIN_CHARACTERS and words not in seen:
            seen.add(words)
            yield sentence


def _supported(sentence: str, passages: Sequence[str]) -> Sentence:
    words = _words(sentence)
    claims = figures.find(sentence)
    best = Sentence(sentence)
    best_share = 0.0
    for number, passage in enumerate(passages):
        quote = quotes.best(passage, sentence)
        if quotes.WORD.findall(quote.lower()) == quotes.WORD.findall(sentence.lower()):
            return Sentence(sentence, number, quote)
        if len(words) < MIN_WORDS or not all(figures.occurs_in(figure, quote) for figure in claims):
            continue
        share = len(words & _words(quote)) / len(words)
        if share >= MIN_SHARED_WORDS and share > best_share:
            best, best_share = Sentence(sentence, number, quote), share
    return best


def _words(text: str) -> set[str]:
    return {word for word in quotes.WORD.findall(text.lower()) if len(word) >= MIN_LETTERS}
