"""Score fusion of keyword and vector search, and diversification by page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from drw.rag.vector_store.ports import PassagePosition
from drw.rag.vector_store.settings import Fusion

RRF = 60


@dataclass(frozen=True, slots=True)
class ScoredChunk:
    """One chunk with its scores, each from 0 to 1."""

    position: PassagePosition
    score: float
    keyword: float
    vector: float


def fuse(
    words: Mapping[PassagePosition, float],
    upper_bound: float,
    vectors: Mapping[PassagePosition, float],
    weight: float,
    fusion: Fusion,
) -> list[ScoredChunk]:
    """Return the chunks of keyword and vector search with fused scores, best first.

    `weight` is the weight of the vector score. If one of the searches has no results, the other has the full weight.

    "coverage" divides BM25 scores by `upper_bound`, the score of a chunk with every term of the question (theoretical
    bounds: Bruch, Gai and Ingber, 2023), and scales the keyword weight by the best of them: if no chunk contains much
    of the question, keywords count little. "min-max" scales the scores of each search from its lowest to its highest.
    "rrf" adds reciprocal ranks (Cormack, Clarke and Büttcher, 2009).
    """
    keyword = _NORMALISERS[fusion](words, upper_bound)
    vector = _NORMALISERS[fusion](vectors, 1.0)
    if fusion == "coverage":
        weight /= (weight + (1 - weight) * max(keyword.values(), default=0.0)) or 1.0
    weight = 0.0 if not vectors else 1.0 if not words else weight
    scored = []
    for position in words.keys() | vectors.keys():
        keyword_score = keyword.get(position, 0.0)
        vector_score = vector.get(position, 0.0)
        scored.append(
            ScoredChunk(position, (1 - weight) * keyword_score + weight * vector_score, keyword_score, vector_score)
        )
    return sorted(scored, key=lambda s: (-s.score, s.position.document, s.position.number))


def _bounded(scores: Mapping[PassagePosition, float], upper_bound: float) -> dict[PassagePosition, float]:
    return (
        {position: min(max(0.0, score / upper_bound), 1.0) for position, score in scores.items()} if upper_bound else {}
    )


def _min_max(scores: Mapping[PassagePosition, float], _: float) -> dict[PassagePosition, float]:
    if not scores:
        return {}
    low = min(scores.values())
    high = max(scores.values())
    if high == low:
        return dict.fromkeys(scores, 1.0)
    return {position: (score - low) / (high - low) for position, score in scores.items()}


def _reciprocal_ranks(scores: Mapping[PassagePosition, float], _: float) -> dict[PassagePosition, float]:
    ranked = sorted(scores, key=lambda position: -scores[position])
    return {position: (RRF + 1) / (RRF + rank) for rank, position in enumerate(ranked, 1)}


_NORMALISERS = {"coverage": _bounded, "min-max": _min_max, "rrf": _reciprocal_ranks}


def distinct_pages(ranked: Iterable[tuple[ScoredChunk, int]], limit: int, per_page: int) -> list[ScoredChunk]:
    """Return the best chunks, with at most `per_page` of one page while there are other pages.

    Args:
        ranked: chunks, best first, each with its page.
        limit: how many to return.
        per_page: maximum chunks of one page before those of other pages.
    """
    seen: Counter[tuple[int, int]] = Counter()
    chosen: list[ScoredChunk] = []
    deferred: list[ScoredChunk] = []
    for scored, page in ranked:
        seen[scored.position.document, page] += 1
        (chosen if seen[scored.position.document, page] <= per_page else deferred).append(scored)
    return sorted((chosen[:limit] + deferred)[:limit], key=lambda s: -s.score)
