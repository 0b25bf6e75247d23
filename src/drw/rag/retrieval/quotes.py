"""Quotes: the exact part of a passage that supports an answer."""

from __future__ import annotations

import re
from collections.abc import Iterable

from drw.rag.retrieval import figures

MAX_CHARACTERS = 300
SEGMENT = re.compile(r"[^\n]+?(?:[.!?](?=\s|$)|(?=\n|$))")
WORD = re.compile(r"\w+")
SHORTEST_RUN = 6
"""Words in a row that an answer must share with a passage, to be taken from it without saying so."""


def best(passage: str, answer: str) -> str:
    """Return the line or sentence of a passage that shares most with an answer: figures first, then words."""
    segments = [match[0].strip() for match in SEGMENT.finditer(passage) if match[0].strip()]
    if not segments:
        return ""
    answer_figures = figures.find(answer)
    answer_words = _words(answer)

    def shared(segment: str) -> tuple[int, float]:
        words = _words(segment)
        standing = sum(figures.stands_in(figure, segment) for figure in answer_figures if not figure.plain)
        return standing, len(words & answer_words) / (len(words) + 10)

    return _cut(max(segments, key=shared), answer_figures)


def longest_run(passage: str, answer: str) -> int:
    """Return the length in words of the longest common run."""
    there = [word.lower() for word in WORD.findall(passage)]
    here = [word.lower() for word in WORD.findall(answer)]
    longest = 0
    previous = [0] * (len(there) + 1)
    for word in here:
        row = [0] * (len(there) + 1)
        for at, other in enumerate(there, 1):
            if word == other:
                row[at] = previous[at - 1] + 1
        longest, previous = max(longest, *row), row
    return longest


def _cut(segment: str, answer_figures: Iterable[figures.Figure]) -> str:
    """Return at most `MAX_CHARACTERS` of a segment, around the first figure that it bears."""
    if len(segment) <= MAX_CHARACTERS:
        return segment
    positions = (position for figure in answer_figures if (position := segment.find(figure.text)) >= 0)
    start = max(0, next(positions, 0) - MAX_CHARACTERS // 2)
    return segment[start : start + MAX_CHARACTERS].strip()


def _words(text: str) -> set[str]:
    return {word.lower() for word in WORD.findall(text) if len(word) > 2}
