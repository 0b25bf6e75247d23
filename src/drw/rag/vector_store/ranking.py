"""Puts the legs of a search together: min-max fusion, the lift of documents that fit, distinct pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from drw.rag.vector_store.ports import Place, Subject


@dataclass(frozen=True, slots=True)
class Scored:
    """One chunk with its scores, each from 0 to 1."""

    place: Place
    score: float
    keyword: float
    vector: float


def fuse(
    words: Mapping[Place, float], vectors: Mapping[Place, float], lifts: Mapping[int, float], weight: float, lift: float
) -> list[Scored]:
    """Return all chunks of both legs, best first.

    Each leg is scaled from its least to its greatest score, and a chunk that one leg does not have gets that
    leg's least. `weight` is the vector leg's part; where there is one leg only, it counts alone. `lift` is how
    much a document that fits the question wholly adds, against 1 for the best chunk.
    """
    keyword, vector = scaled(words), scaled(vectors)
    if not vector:
        weight = 0.0
    elif not keyword:
        weight = 1.0
    found = []
    for place in keyword.keys() | vector.keys():
        k, v = keyword.get(place, 0.0), vector.get(place, 0.0)
        fused = (1 - weight) * k + weight * v
        score = (fused + lift * lifts.get(place.document, 0.0)) / (1 + lift)
        found.append(Scored(place, score, k, v))
    return sorted(found, key=lambda s: (-s.score, s.place.document, s.place.number))


def scaled(scores: Mapping[Place, float]) -> dict[Place, float]:
    """Return the scores from 0 for the least to 1 for the greatest; 1 where all are the same."""
    if not scores:
        return {}
    low, high = min(scores.values()), max(scores.values())
    if high == low:
        return dict.fromkeys(scores, 1.0)
    return {place: (score - low) / (high - low) for place, score in scores.items()}


SURE = 1.0
"""The score, in nats of rarity, from which a fit is no accident: a year that stands in most documents says little."""


def lifts(subjects: Sequence[Subject], *, newest: bool, bonus: float, near: float) -> dict[int, float]:
    """Return how well each document fits the question, from 0 to 1.

    Where the question asks for the newest, the newest of those that fit nearly as well as the best gets the bonus.
    Where even the best fits weakly, all are made smaller.
    """
    if not subjects or (best := max(s.score for s in subjects)) <= 0:
        return {}
    fits = {s.document: s.score / best for s in subjects}
    dated = [s for s in subjects if s.dated and fits[s.document] >= near]
    if newest and dated:
        latest = max(s.dated for s in dated if s.dated)
        for subject in dated:
            if subject.dated == latest:
                fits[subject.document] += bonus
    most = max(fits.values()) / min(1.0, best / SURE)
    return {document: fit / most for document, fit in fits.items()}


def distinct_pages(ranked: Iterable[tuple[Scored, int]], limit: int, per_page: int) -> list[Scored]:
    """Return the best, with at most `per_page` of one page of a document while there are others.

    Args:
        ranked: chunks, best first, each with its page.
        limit: how many to return.
        per_page: how many chunks of one page may stand before the others are through.
    """
    seen: Counter[tuple[int, int]] = Counter()
    chosen: list[Scored] = []
    put_off: list[Scored] = []
    for scored, page in ranked:
        seen[scored.place.document, page] += 1
        (chosen if seen[scored.place.document, page] <= per_page else put_off).append(scored)
    return sorted((chosen[:limit] + put_off)[:limit], key=lambda s: -s.score)
