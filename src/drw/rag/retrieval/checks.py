"""Answer verification: citations refer to existing passages, and figures occur in the cited passages."""

from __future__ import annotations

import re
from collections.abc import Sequence

from drw.api.rag.v1.retrieval_pb2 import Answer, Citation, UnsupportedFigure
from drw.api.rag.v1.vector_store_pb2 import Passage
from drw.grounding import figures, quotes

MARKER = re.compile(r"\s?\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")


def check(text: str, question: str, passages: Sequence[Passage]) -> Answer:
    """Return the answer with its citations, and the figures that no cited passage contains.

    Markers of missing passages are removed. An answer without markers gets those of the passages that contain its
    figures or words.
    """
    text, cited = _resolve_markers(text, len(passages))
    if not cited and (cited := _infer_citations(text, question, passages)):
        text = f"{text.rstrip()} {''.join(f'[{number}]' for number in cited)}"
    cited_passages = [passages[number - 1] for number in cited]
    unsupported = _unsupported(text, question, cited_passages)
    return Answer(
        text=text,
        citations=[
            Citation(number=number, passage=passage, quote=quotes.best(passage.text, text))
            for number, passage in zip(cited, cited_passages, strict=True)
        ],
        unsupported_figures=unsupported,
        supported=bool(cited) and not unsupported,
    )


def _resolve_markers(text: str, count: int) -> tuple[str, list[int]]:
    """Return the text with markers of existing passages only, one number each, and the numbers in order."""
    cited: list[int] = []

    def existing_only(match: re.Match[str]) -> str:
        existing = [number for part in match[1].split(",") if 1 <= (number := int(part)) <= count]
        cited.extend(existing)
        space = match[0][0] if match[0][0].isspace() else ""
        return space + "".join(f"[{number}]" for number in existing) if existing else ""

    text = MARKER.sub(existing_only, text)
    return text, list(dict.fromkeys(cited))


def _infer_citations(text: str, question: str, passages: Sequence[Passage]) -> list[int]:
    """Return the numbers of the passages that contain the answer's figures or, if it has none, its words."""
    claims = [figure for figure in figures.find(text) if not figures.repeats_question(figure, question)]
    if not claims:
        runs = [quotes.longest_run(passage.text, text) for passage in passages]
        longest = max(runs, default=0)
        return [runs.index(longest) + 1] if longest >= quotes.MIN_RUN_WORDS else []
    first = (
        next((n for n, passage in enumerate(passages, 1) if figures.occurs_in(figure, _searched_text(passage))), 0)
        for figure in claims
    )
    return sorted({number for number in first if number})


def _unsupported(text: str, question: str, cited: Sequence[Passage]) -> list[UnsupportedFigure]:
    without_markers = MARKER.sub(lambda match: " " * len(match[0]), text)
    return [
        UnsupportedFigure(figure=figure.text, start=figure.start, end=figure.end)
        for figure in figures.find(without_markers)
        if not figures.repeats_question(figure, question)
        and not any(figures.occurs_in(figure, _searched_text(passage)) for passage in cited)
    ]


def _searched_text(passage: Passage) -> str:
    """Return the text of a passage with its context, which names the period and the unit."""
    return f"{passage.context}\n{passage.text}"
