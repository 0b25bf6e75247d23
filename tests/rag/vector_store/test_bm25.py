"""BM25 over packed postings equals the formula."""

from __future__ import annotations

from collections import Counter
from math import log

import pytest

from drw.rag.vector_store import bm25
from drw.rag.vector_store.ports import KeywordScores, PassagePosition

TEXTS = {(1, 0): "cash cash flow", (1, 1): "net sales", (2, 0): "net cash flow of sales", (3, 7): "lease"}


def postings() -> list[tuple[str, int, bytes]]:
    hits: dict[tuple[str, int], list[int]] = {}
    for (document, number), text in TEXTS.items():
        for term, count in Counter(text.split()).items():
            hits.setdefault((term, document), []).extend((number, count, len(text.split())))
    return [(term, document, bm25.pack_hits(packed)) for (term, document), packed in hits.items()]


def by_formula(terms: list[str]) -> dict[tuple[int, int], float]:
    """Robertson and Zaragoza (2009), equation 3.15, with the idf that stays above zero."""
    average = sum(len(text.split()) for text in TEXTS.values()) / len(TEXTS)
    scores: dict[tuple[int, int], float] = {}
    for place, text in TEXTS.items():
        words = text.split()
        for term in terms:
            containing = sum(term in other.split() for other in TEXTS.values())
            idf = log(1 + (len(TEXTS) - containing + 0.5) / (containing + 0.5))
            count = words.count(term)
            if count:
                normal = 1 - bm25.B + bm25.B * len(words) / average
                scores[place] = scores.get(place, 0) + idf * count * (bm25.K1 + 1) / (count + bm25.K1 * normal)
    return scores


def found(terms: list[str]) -> KeywordScores:
    return bm25.scores(terms, [p for p in postings() if p[0] in terms], len(TEXTS), 11 / 4)


@pytest.mark.parametrize("terms", [["cash"], ["cash", "flow", "net"], ["lease", "of"]])
def test_scores_equal_the_formula(terms: list[str]) -> None:
    best = found(terms).of([PassagePosition(*place) for place in TEXTS])
    assert {(p.document, p.number): score for p, score in best.items()} == pytest.approx(by_formula(terms))


def test_top_chunks_are_in_order_and_any_chunk_has_its_score() -> None:
    cash = found(["cash"])
    assert cash.top(1) == [PassagePosition(1, 0)]
    assert cash.top(9) == [PassagePosition(1, 0), PassagePosition(2, 0)]
    assert cash.of([PassagePosition(2, 0), PassagePosition(9, 9), PassagePosition(1, 1)]).keys() == {
        PassagePosition(2, 0)
    }


def test_the_upper_bound_counts_every_term_of_the_question() -> None:
    one, two = found(["lease"]), found(["lease", "zebra"])
    assert max(one.scores) < one.upper_bound < two.upper_bound


def test_a_search_without_hits_is_empty() -> None:
    empty = bm25.scores(["zebra"], [], 4, 2.0)
    assert (empty.top(10), empty.of([PassagePosition(1, 0)])) == ([], {})
    assert bm25.scores([], [], 0, 1.0).upper_bound == 0
