"""Matching of figures, and selection of quotes."""

from __future__ import annotations

import pytest

from drw.grounding import figures, quotes
from drw.rag.retrieval import prompt


@pytest.mark.parametrize(
    ("answer", "passage"),
    [
        ("81,797", "Total net sales $ 81,797"),
        ("$81,797 million", "Total net sales $ 81,797"),
        ("$81.797 billion", "(in millions) Total net sales $ 81,797"),
        ("$81.8 billion", "sales of $81.8 billion"),
        ("$81,800 million", "sales of $81.8 billion"),
        ("44.5%", "Gross margin 44.5 %"),
        ("44.5 percent", "Gross margin 44.5%"),
        ("$1.26", "Diluted $ 1.26 $ 1.20"),
        ("(1,234)", "Loss 1,234"),
    ],
)
def test_equal_figures_match(answer: str, passage: str) -> None:
    (figure,) = figures.find(answer)
    assert figures.occurs_in(figure, passage)


@pytest.mark.parametrize(
    ("answer", "passage"),
    [
        ("81,798", "Total net sales $ 81,797"),
        ("$81.8 billion", "(in millions) Total net sales $ 81,797"),
        ("$81,797 million", "(in thousands) Total net sales $ 81,797"),
        ("$81,797 billion", "(in millions) Total net sales $ 81,797"),
        ("$81.797 billion", "Total net sales $ 81,797"),
        ("81.8", "sales of $81.8 billion"),
        ("12%", "there were 12 stores"),
        ("12", "sales rose 12%"),
        ("797", "81,797"),
        ("10", "Form 10-Q"),
        ("3", "in Q3 and on the H3"),
    ],
)
def test_different_figures_do_not_match(answer: str, passage: str) -> None:
    (figure,) = figures.find(answer)
    assert not figures.occurs_in(figure, passage)


def test_figures_have_their_offsets() -> None:
    text = "1. Sales were $81,797 million, or 3.1% more; see Form 10-Q, Q3 2023.\n2. Cash: 62,482."
    found = figures.find(text)
    assert [f.text for f in found] == ["$81,797 million", "3.1%", "2023", "62,482"]
    assert [text[f.start : f.end] for f in found] == [f.text for f in found]


def test_a_number_of_the_question_is_not_a_claim() -> None:
    year, sales = figures.find("in 2023 sales were $2,023")
    assert figures.repeats_question(year, "What were sales in 2023?")
    assert not figures.repeats_question(sales, "Were sales $2,023?")


def test_a_quote_is_the_sentence_with_the_figure() -> None:
    passage = "Apple sells phones.\nTotal net sales $ 81,797 $ 82,959\nCost of sales 45,384 47,074"
    assert quotes.best(passage, "Sales were $81,797 million [1].") == "Total net sales $ 81,797 $ 82,959"
    long = "word " * 100 + "81,797 " + "word " * 100
    assert "81,797" in quotes.best(long, "81,797")
    assert quotes.best(long, "81,797") in long
    assert quotes.best("", "81,797") == ""


def test_a_long_passage_is_shortened_to_the_relevant_lines() -> None:
    lines = [f"row {n} {n:06}" for n in range(200)]
    lines[150] = "total net sales 81,797"
    kept = prompt.shorten("\n".join(lines), "What were total net sales?", 60)
    assert "total net sales 81,797" in kept
    assert prompt.estimate(kept) <= 60
    assert prompt.estimate(prompt.shorten("9" * 500, "x", 60)) <= 60
