"""How the legs of a search are put together."""

from __future__ import annotations

from datetime import date

import pytest

from drw.rag.vector_store import ranking
from drw.rag.vector_store.ports import Place, Subject

A, B, C = Place(1, 0), Place(1, 1), Place(2, 0)


def order(scored):
    return [s.place for s in scored]


def test_a_leg_counts_by_its_weight():
    words, vectors = {A: 9.0, B: 1.0}, {B: 0.9, C: 0.2}
    assert order(ranking.fuse(words, vectors, {}, 0.3, 0.0))[0] == A
    assert order(ranking.fuse(words, vectors, {}, 0.7, 0.0))[0] == B


def test_a_leg_that_is_missing_leaves_the_other_whole():
    for words, vectors in (({A: 3.0, B: 1.0}, {}), ({}, {A: 3.0, B: 1.0})):
        assert [s.score for s in ranking.fuse(words, vectors, {}, 0.5, 0.0)] == [1.0, 0.0]
    assert ranking.fuse({}, {}, {}, 0.5, 1.0) == []


def test_a_chunk_that_a_leg_lacks_gets_its_least():
    found = {s.place: s for s in ranking.fuse({A: 2.0, B: 1.0}, {A: 0.5, C: 0.1}, {}, 0.5, 0.0)}
    assert (found[C].keyword, found[B].vector) == (0.0, 0.0)
    assert found[A].score == 1.0


def test_a_document_that_fits_lifts_its_chunks():
    words = {A: 2.0, B: 1.0, C: 1.9}
    assert order(ranking.fuse(words, {}, {2: 1.0}, 0.5, 1.0)) == [C, A, B]
    assert all(0 <= s.score <= 1 for s in ranking.fuse(words, {}, {2: 1.0, 1: 0.5}, 0.5, 2.0))


def test_the_newest_of_those_that_fit_is_lifted():
    subjects = [
        Subject(1, 10.0, date(2022, 6, 25)),
        Subject(2, 9.0, date(2023, 7, 1)),
        Subject(3, 2.0, date(2024, 1, 1)),
    ]
    plain = ranking.lifts(subjects, newest=False, bonus=0.3, near=0.75)
    assert max(plain, key=plain.__getitem__) == 1
    newest = ranking.lifts(subjects, newest=True, bonus=0.3, near=0.75)
    assert max(newest, key=newest.__getitem__) == 2
    assert newest[2] == 1.0
    weak = ranking.lifts([Subject(1, 0.1, None), Subject(2, 0.05, None)], newest=False, bonus=0.3, near=0.75)
    assert weak == pytest.approx({1: 0.1, 2: 0.05})
    assert ranking.lifts([], newest=True, bonus=0.3, near=0.75) == {}


@pytest.mark.parametrize(("limit", "wanted"), [(2, [0, 1]), (3, [0, 1, 3]), (4, [0, 1, 2, 3])])
def test_a_page_has_two_places_while_there_are_other_pages(limit, wanted):
    scored = [ranking.Scored(Place(1, n), 1 - n / 10, 0, 0) for n in range(4)]
    chosen = ranking.distinct_pages(zip(scored, [1, 1, 1, 2], strict=True), limit, 2)
    assert [s.place.number for s in chosen] == wanted
