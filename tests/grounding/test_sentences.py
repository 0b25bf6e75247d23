"""Sentences of generated texts are checked against passages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drw.grounding.sentences import check

PASSAGES = [
    "Harbour Lane Trading Ltd\nNet trading revenue was USD 61.4 million, up 9 percent from the quarter before.",
    "A waiver is signed by the chief risk officer, names a reason, and ends after ten trading days.",
]


@pytest.mark.parametrize(
    ("sentence", "passage"),
    [
        ("Net trading revenue was USD 61.4 million, up 9 percent.", 0),
        ("harbour lane trading ltd", 0),  # a short line
        ("[2] A waiver is signed by the chief risk officer.", 1),
        ("Net trading revenue was USD 64.1 million, up 9 percent.", None),  # another figure
        ("A waiver is signed by the head of the options desk in London.", None),  # other words
        ("Risk officer.", None),  # too short
    ],
)
def test_a_quote_has_the_figures_and_most_words_of_its_sentence(sentence: str, passage: int | None) -> None:
    (checked,) = check(sentence, PASSAGES)
    assert (checked.supported, checked.passage) == (passage is not None, passage)
    assert bool(checked.quote) == checked.supported


def test_repeated_sentences_and_the_numbers_of_lists_are_left_out() -> None:
    checked = check("1.\nIt is a policy. It is a policy. IT IS  a policy.\n- And more.", PASSAGES)
    assert [sentence.text for sentence in checked] == ["It is a policy.", "- And more."]


@given(st.text(alphabet="ab1 .,\n[]%", max_size=80), st.lists(st.text(alphabet="ab1 .,\n%", max_size=80), max_size=3))
def test_a_quote_is_a_part_of_its_passage(text: str, passages: list[str]) -> None:
    for sentence in check(text, [*passages, text]):
        assert sentence.passage is None or sentence.quote in [*passages, text][sentence.passage]
