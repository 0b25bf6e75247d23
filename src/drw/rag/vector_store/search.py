"""Finds passages in one snapshot: automatic filters pick documents, words and vector pick chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from drw.api.rag.v1.vector_store_pb2 import Passage
from drw.rag.vector_store import auto_filters, question, ranking
from drw.rag.vector_store.ports import Filters, Snapshot
from drw.rag.vector_store.settings import Ranking


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What is searched for."""

    text: str
    vector: Sequence[float]
    limit: int
    auto_filters: bool = True


@dataclass(frozen=True, slots=True)
class SearchHits:
    """The passages that fit best, with their scores, and the automatic filters that were applied."""

    passages: Sequence[Passage]
    filters: Filters


async def search(snapshot: Snapshot, wanted: SearchRequest, settings: Ranking) -> SearchHits:
    """Return the passages that fit best."""
    asked = question.read(wanted.text)
    filters = await auto_filters.chosen(snapshot, asked) if wanted.auto_filters else {}
    if filters:
        snapshot = await snapshot.narrowed(filters)
    words = await snapshot.by_words(asked.terms)
    best = words.best(settings.candidates)
    vectors = await snapshot.by_vector(wanted.vector, best, settings.candidates)
    keywords = words.at(list(dict.fromkeys([*best, *vectors])))
    fusion, weight = (
        (settings.narrowed_fusion, settings.narrowed_vector_weight)
        if filters
        else (settings.fusion, settings.vector_weight)
    )
    ranked = ranking.fuse(keywords, words.bound, vectors, weight, fusion)
    ranked = ranked[: 2 * wanted.limit + 10]
    passages = await snapshot.passages([scored.place for scored in ranked])
    paged = [(scored, passages[scored.place].page) for scored in ranked]
    chosen = ranking.distinct_pages(paged, wanted.limit, settings.per_page)
    return SearchHits([_scored(passages[scored.place], scored) for scored in chosen], filters)


def _scored(passage: Passage, scored: ranking.Scored) -> Passage:
    passage.score, passage.keyword_score, passage.vector_score = scored.score, scored.keyword, scored.vector
    return passage
