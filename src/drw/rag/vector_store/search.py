"""Hybrid search in one snapshot: automatic filters select documents, keywords and vectors select chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from drw.api.rag.v1.vector_store_pb2 import Passage
from drw.rag.vector_store import auto_filters, question, ranking
from drw.rag.vector_store.ports import Filters, Snapshot
from drw.rag.vector_store.settings import Ranking


@dataclass(frozen=True, slots=True)
class SearchQuery:
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


async def search(snapshot: Snapshot, request: SearchQuery, settings: Ranking) -> SearchHits:
    """Return the best passages."""
    analysed = question.analyse(request.text)
    filters = await auto_filters.inferred(snapshot, analysed) if request.auto_filters else {}
    if filters:
        snapshot = await snapshot.narrow(filters)
    keyword_scores = await snapshot.keyword_search(analysed.terms)
    top_keyword = keyword_scores.top(settings.candidates)
    vectors = await snapshot.vector_search(request.vector, top_keyword, settings.candidates)
    chunk_scores = keyword_scores.of(list(dict.fromkeys([*top_keyword, *vectors])))
    fusion, weight = (
        (settings.narrowed_fusion, settings.narrowed_vector_weight)
        if filters
        else (settings.fusion, settings.vector_weight)
    )
    ranked = ranking.fuse(chunk_scores, keyword_scores.upper_bound, vectors, weight, fusion)
    ranked = ranked[: 2 * request.limit + 10]
    passages = await snapshot.passages([scored.position for scored in ranked])
    paged = [(scored, passages[scored.position].page) for scored in ranked]
    chosen = ranking.distinct_pages(paged, request.limit, settings.per_page)
    return SearchHits([_with_scores(passages[scored.position], scored) for scored in chosen], filters)


def _with_scores(passage: Passage, scored: ranking.ScoredChunk) -> Passage:
    passage.score = scored.score
    passage.keyword_score = scored.keyword
    passage.vector_score = scored.vector
    return passage
