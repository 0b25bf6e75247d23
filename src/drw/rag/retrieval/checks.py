"""Answer verification: citations refer to existing passages, and figures occur in the cited passages."""

from __future__ import annotations

import re
from collections.abc import Sequence

from drw.api.rag.v1.retrieval_pb2 import Answer, Citation, UnsupportedFigure
from drw.api.rag.v1.vector_store_pb2 import Passage
from drw.rag.retrieval import figures, quotes

MARKER = re.compile(r"\s?\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")


def check(text: str, question: str, passages: Sequence[Passage]) -> Answer:
    """Return the answer with its citations, and the figures that no cited passage contains.

    Markers of passages that do not exist are taken out. An answer without any is given those of the passages
    that it can be shown to come from.
    """
    text, cited = _resolved(text, len(passages))
    if not cited and (cited := _origins(text, question, passages)):
        text = f"{text.rstrip()} {''.join(f'[{number}]' for number in cited)}"
    chosen = [passages[number - 1] for number in cited]
    unsupported = _unsupported(text, question, chosen)
    return Answer(
        text=text,
        citations=[_citation(number, passages[number - 1], text) for number in cited],
        unsupported_figures=unsupported,
        supported=bool(cited) and not unsupported,
    )


def _resolved(text: str, count: int) -> tuple[str, list[int]]:
    """Return the text with only the markers that resolve, each alone, and their numbers in order."""
    cited: list[int] = []

    def keep(match: re.Match[str]) -> str:
        valid = [number for part in match[1].split(",") if 1 <= (number := int(part)) <= count]
        cited.extend(valid)
        space = match[0][0] if match[0][0].isspace() else ""
        return space + "".join(f"[{number}]" for number in valid) if valid else ""

    text = MARKER.sub(keep, text)
    return text, list(dict.fromkeys(cited))


def _origins(text: str, question: str, passages: Sequence[Passage]) -> list[int]:
    """Return the numbers of the passages that contain the answer's figures or, if it has none, its words."""
    claimed = [figure for figure in figures.find(text) if not figures.only_named(figure, question)]
    if not claimed:
        runs = [quotes.longest_run(passage.text, text) for passage in passages]
        longest = max(runs, default=0)
        return [runs.index(longest) + 1] if longest >= quotes.SHORTEST_RUN else []
    first = (
        next((n for n, passage in enumerate(passages, 1) if figures.stands_in(figure, _known(passage))), 0)
        for figure in claimed
    )
    return sorted({number for number in first if number})


def _unsupported(text: str, question: str, cited: Sequence[Passage]) -> list[UnsupportedFigure]:
    bare = MARKER.sub(lambda match: " " * len(match[0]), text)
    return [
        UnsupportedFigure(figure=figure.text, start=figure.start, end=figure.end)
        for figure in figures.find(bare)
        if not figures.only_named(figure, question)
        and not any(figures.stands_in(figure, _known(passage)) for passage in cited)
    ]


def _known(passage: Passage) -> str:
    """Return the text of a passage with its context, which names the period and the unit."""
    return f"{passage.context}\n{passage.text}"


def _citation(number: int, passage: Passage, text: str) -> Citation:
    return Citation(number=number, passage=passage, quote=quotes.best(passage.text, text))
