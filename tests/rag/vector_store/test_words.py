"""Tokenisation into terms, dates and fiscal quarters."""

from __future__ import annotations

from datetime import date

import pytest

from drw.rag.vector_store import metadata, question
from drw.rag.vector_store.periods import dates, quarters
from drw.rag.vector_store.terms import terms


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("81,797", "81797"),
        ("Apple's sales", "apple sale"),
        ("increasing revenues", "increased revenue"),
        ("R&D", "r&d"),
        ("ﬁnancial", "financial"),
        ("July 1, 2023", "1 July 2023"),
    ],
)
def test_equivalent_texts_have_the_same_terms(one: str, other: str) -> None:
    assert set(terms(one)) == set(terms(other))


def test_numbers_are_one_term_and_stop_words_are_removed() -> None:
    assert terms("What were the net sales of 1,496.5 and 12.5%?") == ["net", "sale", "1496.5", "12.5"]


@pytest.mark.parametrize(
    "text",
    [
        "July 1, 2023",
        "Jul. 1, 2023",
        "1 July 2023",
        "1st of July, 2023",
        "2023-07-01",
        "July  1 ,\n2023",
        "JULY 1, 2023",
    ],
)
def test_dates_are_parsed_in_every_notation(text: str) -> None:
    assert dates(f"the quarter ended {text}.") == [date(2023, 7, 1)]


@pytest.mark.parametrize("text", ["decline 1, 2023", "February 30, 2023", "market 2023", "July 2023", "12023-07-011"])
def test_invalid_dates_are_ignored(text: str) -> None:
    assert dates(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "Q3 2023",
        "2023 Q3",
        "2023_Q3",
        "Q3 of 2023",
        "Q3 FY2023",
        "3Q23",
        "Q3'23",
        "third quarter of 2023",
        "third quarter of fiscal year 2023",
        "third fiscal quarter of 2023",
        "fiscal 2023 third quarter",
        "3rd quarter 2023",
    ],
)
def test_quarters_are_parsed_in_every_notation(text: str) -> None:
    assert set(quarters(text)) == {(2023, 3)}
    assert "2023q3" in terms(text)


def test_a_question_can_ask_for_the_newest() -> None:
    assert question.analyse("the most recent 10-Q").asks_for_newest
    assert not question.analyse("What were Apple's total net sales in the third quarter of 2023?").asks_for_newest


def test_a_question_has_a_bounded_number_of_terms() -> None:
    assert len(question.analyse(" ".join(f"word{n}" for n in range(500))).terms) == question.MAX_TERMS
    lower = " ".join(f"word{n}" for n in range(5000))
    assert len(question.analyse(lower).metadata_terms["company"]) == metadata.MAX_NAMES
