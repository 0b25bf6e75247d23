"""Fusion of keyword and vector scores, and diversification by page."""

from __future__ import annotations

import pytest

from drw.rag.vector_store import ranking
from drw.rag.vector_store.ports import PassagePosition
from drw.rag.vector_store.ranking import ScoredChunk
from drw.rag.vector_store.settings import Fusion

A, B, C = PassagePosition(1, 0), PassagePosition(1, 1), PassagePosition(2, 0)
FUSIONS = ["coverage", "min-max", "rrf"]


def order(scored: list[ScoredChunk]) -> list[PassagePosition]:
    return [s.position for s in scored]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_scores_are_weighted(fusion: Fusion) -> None:
    words, vectors = {A: 9.0, B: 1.0}, {B: 0.9, C: 0.2}
    assert order(ranking.fuse(words, 10.0, vectors, 0.01, fusion))[0] == A
    assert order(ranking.fuse(words, 10.0, vectors, 0.9, fusion))[0] == B


@pytest.mark.parametrize("fusion", FUSIONS)
def test_without_results_of_one_search_the_other_has_full_weight(fusion: Fusion) -> None:
    both = {A: 0.9, B: 0.3}
    for words, vectors in ((both, {}), ({}, both)):
        scored = ranking.fuse(words, 1.0, vectors, 0.5, fusion)
        assert order(scored) == [A, B]
        assert scored[0].score == max(scored[0].keyword, scored[0].vector) > 0
    assert ranking.fuse({}, 0.0, {}, 0.5, fusion) == []


@pytest.mark.parametrize("fusion", FUSIONS)
def test_scores_are_from_0_to_1(fusion: Fusion) -> None:
    words, vectors = {A: 12.0, B: 0.1}, {A: 0.99, B: -0.4, C: 0.2}
    for scored in ranking.fuse(words, 10.0, vectors, 0.3, fusion):
        assert all(0 <= value <= 1 for value in (scored.score, scored.keyword, scored.vector))


def test_keywords_weigh_less_if_no_chunk_covers_the_question() -> None:
    vectors = {A: 0.2, B: 0.5}
    assert order(ranking.fuse({A: 8.0, B: 1.0}, 10.0, vectors, 0.4, "coverage")) == [A, B]
    assert order(ranking.fuse({A: 2.0, B: 0.25}, 10.0, vectors, 0.4, "coverage")) == [B, A]


@pytest.mark.parametrize(("limit", "numbers"), [(2, [0, 1]), (3, [0, 1, 3]), (4, [0, 1, 2, 3])])
def test_a_page_has_at_most_two_results_while_there_are_other_pages(limit: int, numbers: list[int]) -> None:
    scored = [ranking.ScoredChunk(PassagePosition(1, n), 1 - n / 10, 0, 0) for n in range(4)]
    chosen = ranking.distinct_pages(zip(scored, [1, 1, 1, 2], strict=True), limit, 2)
    assert [s.position.number for s in chosen] == numbers
