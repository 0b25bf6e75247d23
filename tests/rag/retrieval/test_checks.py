"""What counts as the same figure, and which words of a passage are quoted."""

from __future__ import annotations

import pytest

from drw.rag.retrieval import figures, prompt, quotes


@pytest.mark.parametrize(
    ("said", "passage"),
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
def test_a_figure_stands_in_a_passage(said: str, passage: str) -> None:
    (figure,) = figures.find(said)
    assert figures.stands_in(figure, passage)


@pytest.mark.parametrize(
    ("said", "passage"),
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
def test_a_figure_does_not_stand_in_a_passage(said: str, passage: str) -> None:
    (figure,) = figures.find(said)
    assert not figures.stands_in(figure, passage)


def test_figures_are_found_where_they_stand() -> None:
    text = "1. Sales were $81,797 million, or 3.1% more; see Form 10-Q, Q3 2023.\n2. Cash: 62,482."
    found = figures.find(text)
    assert [f.text for f in found] == ["$81,797 million", "3.1%", "2023", "62,482"]
    assert [text[f.start : f.end] for f in found] == [f.text for f in found]


def test_a_plain_number_of_the_question_is_no_claim() -> None:
    year, sales = figures.find("in 2023 sales were $2,023")
    assert figures.only_named(year, "What were sales in 2023?")
    assert not figures.only_named(sales, "Were sales $2,023?")


def test_a_quote_is_a_part_of_the_passage_that_has_the_figure() -> None:
    passage = "Apple sells phones.\nTotal net sales $ 81,797 $ 82,959\nCost of sales 45,384 47,074"
    assert quotes.best(passage, "Sales were $81,797 million [1].") == "Total net sales $ 81,797 $ 82,959"
    long = "word " * 100 + "81,797 " + "word " * 100
    assert "81,797" in quotes.best(long, "81,797")
    assert quotes.best(long, "81,797") in long
    assert quotes.best("", "81,797") == ""


def test_a_long_passage_keeps_the_lines_that_the_question_is_about() -> None:
    lines = [f"row {n} {n:06}" for n in range(200)]
    lines[150] = "total net sales 81,797"
    kept = prompt.shortened("\n".join(lines), "What were total net sales?", 60)
    assert "total net sales 81,797" in kept
    assert prompt.estimate(kept) <= 60
    assert prompt.estimate(prompt.shortened("9" * 500, "x", 60)) <= 60
