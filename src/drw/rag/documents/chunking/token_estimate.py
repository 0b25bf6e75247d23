"""Estimate of the number of WordPiece tokens in an English text, without the tokenizer.

Fitted to 97,000 tokens of three filings: the error is below 6 % for nine in ten windows of twenty lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

WORDS = re.compile(r"[^\W\d_]+")
NUMBERS = re.compile(r"\d+")
SYMBOLS = re.compile(r"[^\w\s]|_")
UNITS = re.compile(r"[^\W\d_]+|\d+|[^\w\s]|_")
LONG_WORD_CHARACTERS = 12
MAX_UNIT_CHARACTERS = 64
"""Longer words and numbers are split."""


def estimate(text: str) -> int:
    """Estimate the number of tokens in a text."""
    words = sum(map(_word_tokens, WORDS.findall(text)))
    numbers = sum(1.0 + 0.45 * max(0, len(number) - 2) for number in NUMBERS.findall(text))
    return round(words + numbers + len(SYMBOLS.findall(text)))


def _word_tokens(word: str) -> float:
    if not word.isascii():  # the vocabulary has only single letters of other scripts
        return (len(word) + 1) / 2
    return 1.0 + 0.4 * (len(word) // LONG_WORD_CHARACTERS)


def split(text: str, max_tokens: int) -> Iterator[tuple[int, int]]:
    """Yield the spans (start, end) of a text without spaces, each of about `max_tokens` tokens at most."""
    span_start = 0
    total = 0.0
    for match in UNITS.finditer(text):
        for start in range(match.start(), match.end(), MAX_UNIT_CHARACTERS):
            end = min(start + MAX_UNIT_CHARACTERS, match.end())
            size = 1.0 if end - start == 1 else estimate(text[start:end])
            if total + size > max_tokens and start > span_start:
                yield span_start, start
                span_start = start
                total = 0.0
            total += size
    yield span_start, len(text)
