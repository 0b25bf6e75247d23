"""Quotes: the exact part of a passage that supports an answer."""

from __future__ import annotations

import re
from collections.abc import Iterable

from drw.grounding import figures

MAX_CHARACTERS = 300
SEGMENT = re.compile(r"[^\n]+?(?:[.!?](?=\s|$)|(?=\n|$))")
WORD = re.compile(r"\w+")
MIN_RUN_WORDS = 6
"""Minimum length in words of a common run that makes an answer without citations cite a passage."""


def best(passage: str, answer: str) -> str:
    """Return the line or sentence of a passage that shares most figures, then most words, with an answer."""
    segments = [match[0].strip() for match in SEGMENT.finditer(passage) if match[0].strip()]
    if not segments:
        return ""
    answer_figures = figures.find(answer)
    answer_words = _words(answer)

    def shared(segment: str) -> tuple[int, float]:
        words = _words(segment)
        figure_count = sum(figures.occurs_in(figure, segment) for figure in answer_figures if not figure.unitless)
        return figure_count, len(words & answer_words) / (len(words) + 10)

    return _excerpt(max(segments, key=shared), answer_figures)


def longest_run(passage: str, answer: str) -> int:
    """Return the length in words of the longest common run."""
    passage_words = [word.lower() for word in WORD.findall(passage)]
    answer_words = [word.lower() for word in WORD.findall(answer)]
    longest = 0
    previous = [0] * (len(passage_words) + 1)
    for word in answer_words:
        row = [0] * (len(passage_words) + 1)
        for index, other in enumerate(passage_words, 1):
            if word == other:
                row[index] = previous[index - 1] + 1
        longest, previous = max(longest, *row), row
    return longest


def _excerpt(segment: str, answer_figures: Iterable[figures.Figure]) -> str:
    """Return at most `MAX_CHARACTERS` of a segment, around the first figure that it contains."""
    if len(segment) <= MAX_CHARACTERS:
        return segment
    offsets = (offset for figure in answer_figures if (offset := segment.find(figure.text)) >= 0)
    start = max(0, next(offsets, 0) - MAX_CHARACTERS // 2)
    return segment[start : start + MAX_CHARACTERS].strip()


def _words(text: str) -> set[str]:
    return {word.lower() for word in WORD.findall(text) if len(word) > 2}
