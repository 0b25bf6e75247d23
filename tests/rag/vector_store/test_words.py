"""What text becomes: terms, periods, what a document is about, what a question names."""

from __future__ import annotations

from datetime import date

import pytest

from drw.api.rag.v1.vector_store_pb2 import Chunk, Document
from drw.kernel.attributes import to_values
from drw.rag.vector_store import question
from drw.rag.vector_store.analysis import analyse
from drw.rag.vector_store.periods import dates, quarters, stated_date
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
def test_the_same_thing_is_the_same_terms(one, other):
    assert set(terms(one)) == set(terms(other))


def test_numbers_stay_whole_and_stop_words_go():
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
def test_a_date_is_found_in_each_form(text):
    assert dates(f"the quarter ended {text}.") == [date(2023, 7, 1)]


@pytest.mark.parametrize("text", ["decline 1, 2023", "February 30, 2023", "market 2023", "July 2023", "12023-07-011"])
def test_what_is_no_date_is_none(text):
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
def test_a_quarter_is_found_in_each_form(text):
    assert set(quarters(text)) == {(2023, 3)}
    assert "2023q3" in terms(text)


def test_a_document_is_about_its_title_and_its_shared_context():
    chunks = [
        Chunk(number=0, page=1, text="Form 10-Q. For the quarter ended July 1, 2023. Apple Inc.", context="Apple"),
        Chunk(number=1, page=2, text="Sales fell in Brazil.", context="Apple\nSales"),
        Chunk(number=2, page=3, text="Costs rose.", context="Apple\nCosts"),
    ]
    found = analyse(Document(title="2023_Q3 AAPL.pdf", attributes=to_values({"form": "10-Q"})), chunks)
    weights = found.subject
    assert weights["2023q3"] == weights["aapl"] > weights["appl"] > 0
    assert not weights.keys() & {"brazil", "cost", "2023-07-01"}
    assert found.dated == date(2023, 7, 1)
    assert [counts["appl"] for counts in found.counts] == [2, 1, 1]


@pytest.mark.parametrize(
    ("title", "text", "wanted"),
    [
        ("2023 Q3 AAPL.pdf", "no date here", date(2023, 9, 28)),
        ("memo.txt", "A memo of May 4, 2021 on events of June 1, 2020", date(2021, 5, 4)),
        ("memo 2022-01-02.txt", "See June 1, 2020", date(2022, 1, 2)),
        ("memo.txt", "nothing", None),
    ],
)
def test_a_document_is_dated_from_where_it_says_so_most_surely(title, text, wanted):
    assert analyse(Document(title=title), [Chunk(page=1, text=text)]).dated == wanted


def test_a_date_that_is_stated_counts_before_others():
    assert stated_date("Filed May 4, 2021 for the year ended March 31, 2021") == date(2021, 3, 31)


def test_a_question_names_companies_and_periods():
    found = question.read("What were Apple's total net sales in the third quarter of 2023?")
    assert found.names["2023q3"] > found.names["appl"] > found.names["sale"]
    assert not found.newest
    assert question.read("the most recent 10-Q").newest


def test_a_question_has_a_bounded_number_of_terms():
    assert len(question.read(" ".join(f"word{n}" for n in range(500))).terms) == question.MAX_TERMS
