"""Finds passages in one snapshot: what the question names picks documents, words and vector pick chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from drw.api.rag.v1.vector_store_pb2 import Passage
from drw.kernel.settings import Settings
from drw.rag.vector_store import question, ranking
from drw.rag.vector_store.ports import Snapshot


class Ranking(Settings):
    """How the legs of a search weigh; the defaults are chosen by bench/retrieval.py."""

    vector_weight: float = 0.4
    """The vector leg's part in the score of a chunk; the words have the rest."""
    lift: float = 2.0
    """What a document that fits the question adds to its chunks, against 1 for the best chunk."""
    newest_bonus: float = 0.3
    """What being the newest adds to a document where the question asks for that, against 1 for the best fit."""
    near: float = 0.75
    """How well a document must fit, against the best, to be taken for the newest of them."""
    candidates: int = 200
    preferred: int = 8
    """Documents of which candidates are taken beside the best of all."""
    per_page: int = 2


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is searched for."""

    text: str
    vector: Sequence[float]
    limit: int


async def search(snapshot: Snapshot, wanted: Wanted, settings: Ranking) -> list[Passage]:
    """Return the passages that fit best, with their scores."""
    asked = question.read(wanted.text)
    subjects = await snapshot.subjects(asked.names)
    lifts = ranking.lifts(subjects, newest=asked.newest, bonus=settings.newest_bonus, near=settings.near)
    preferred = sorted(lifts, key=lambda document: -lifts[document])[: settings.preferred]
    words = await snapshot.by_words(asked.terms, preferred, settings.candidates)
    vectors = await snapshot.by_vector(wanted.vector, preferred, settings.candidates)
    ranked = ranking.fuse(words, vectors, lifts, settings.vector_weight, settings.lift)[: 2 * wanted.limit + 10]
    passages = await snapshot.passages([scored.place for scored in ranked])
    paged = [(scored, passages[scored.place].page) for scored in ranked]
    chosen = ranking.distinct_pages(paged, wanted.limit, settings.per_page)
    return [_scored(passages[scored.place], scored) for scored in chosen]


def _scored(passage: Passage, scored: ranking.Scored) -> Passage:
    passage.score, passage.keyword_score, passage.vector_score = scored.score, scored.keyword, scored.vector
    return passage
