"""Hybrid search in one snapshot: automatic filters select documents, keywords and vector select chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from drw.api.rag.v1.vector_store_pb2 import Passage
from drw.rag.vector_store import auto_filters, question, ranking
from drw.rag.vector_store.ports import Filters, Snapshot
from drw.rag.vector_store.settings import Ranking


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """A search."""

    text: str
    vector: Sequence[float]
    limit: int
    auto_filters: bool = True


@dataclass(frozen=True, slots=True)
class SearchHits:
    """The best passages with their scores, and the applied automatic filters."""

    passages: Sequence[Passage]
    filters: Filters


async def search(snapshot: Snapshot, request: SearchRequest, settings: Ranking) -> SearchHits:
    """Return the best passages."""
    parsed = question.read(request.text)
    filters = await auto_filters.chosen(snapshot, parsed) if request.auto_filters else {}
    if filters:
        snapshot = await snapshot.narrowed(filters)
    words = await snapshot.by_words(parsed.terms)
    best = words.best(settings.candidates)
    vectors = await snapshot.by_vector(request.vector, best, settings.candidates)
    keywords = words.at(list(dict.fromkeys([*best, *vectors])))
    fusion, weight = (
        (settings.narrowed_fusion, settings.narrowed_vector_weight)
        if filters
        else (settings.fusion, settings.vector_weight)
    )
    ranked = ranking.fuse(keywords, words.bound, vectors, weight, fusion)
    ranked = ranked[: 2 * request.limit + 10]
    passages = await snapshot.passages([scored.position for scored in ranked])
    paged = [(scored, passages[scored.position].page) for scored in ranked]
    chosen = ranking.distinct_pages(paged, request.limit, settings.per_page)
    return SearchHits([_scored(passages[scored.position], scored) for scored in chosen], filters)


def _scored(passage: Passage, scored: ranking.Scored) -> Passage:
    passage.score = scored.score
    passage.keyword_score = scored.keyword
    passage.vector_score = scored.vector
    return passage
