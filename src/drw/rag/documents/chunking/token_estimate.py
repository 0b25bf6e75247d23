"""Estimate of the number of WordPiece tokens in an English text, without the tokenizer.

Fitted to 97,000 tokens of three filings: within 6 % for nine windows of twenty lines in ten.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

WORDS = re.compile(r"[^\W\d_]+")
NUMBERS = re.compile(r"\d+")
SYMBOLS = re.compile(r"[^\w\s]|_")
PIECES = re.compile(r"[^\W\d_]+|\d+|[^\w\s]|_")
LONG_WORD = 12
LONGEST_PIECE = 64
"""Characters of one word or number that a text is split between at most."""


def estimate(text: str) -> int:
    """Return about how many tokens the text has."""
    words = sum(map(_word, WORDS.findall(text)))
    numbers = sum(1.0 + 0.45 * max(0, len(number) - 2) for number in NUMBERS.findall(text))
    return round(words + numbers + len(SYMBOLS.findall(text)))


def _word(word: str) -> float:
    if not word.isascii():  # a script that the vocabulary knows by the letter
        return (len(word) + 1) / 2
    return 1.0 + 0.4 * (len(word) // LONG_WORD)


def split(text: str, max_tokens: int) -> Iterator[tuple[int, int]]:
    """Yield the spans of a text that has no spaces, each of at most about `max_tokens` tokens."""
    begin = 0
    total = 0.0
    for match in PIECES.finditer(text):
        for at in range(match.start(), match.end(), LONGEST_PIECE):
            end = min(at + LONGEST_PIECE, match.end())
            size = 1.0 if end - at == 1 else estimate(text[at:end])
            if total + size > max_tokens and at > begin:
                yield begin, at
                begin = at
                total = 0.0
            total += size
    yield begin, len(text)
