"""Chunking: whole lines, bounded size, and a context with the subject, the headings and the column headers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drw.rag.documents.chunking import token_estimate
from drw.rag.documents.chunking.chunks import MAX_CHUNK_TOKENS, MAX_CONTEXT_TOKENS, Chunk, Chunker
from drw.rag.documents.chunking.document_context import subject
from drw.rag.documents.parsing.pages import normalize, split_long

ROWS = [f"Product {n} line $ {n},{n:03} $ {n + 1},{n:03} ({n})%" for n in range(1, 60)]
STATEMENT = "\n".join(
    ["Item 1. Financial Statements", "Three Months Ended", "July 1,", "2023", "June 25,", "2022", "Net sales:", *ROWS]
)


def test_a_table_is_split_between_rows_and_each_chunk_has_its_column_headers() -> None:
    chunks = list(Chunker("Acme Inc.").page(7, STATEMENT))
    assert len(chunks) > 3
    for chunk in chunks:
        assert chunk.page == 7
        assert STATEMENT[chunk.start : chunk.end] == chunk.text
        assert set(chunk.text.splitlines()) <= set(STATEMENT.splitlines())
    for chunk in chunks[1:]:
        assert chunk.context == (
            "Acme Inc.\nItem 1. Financial Statements\nThree Months Ended July 1, 2023 June 25, 2022"
        )
    assert chunks[1].text.splitlines()[:2] == chunks[0].text.splitlines()[-2:]


def test_a_small_table_is_not_split() -> None:
    text = "\n".join(["The desks earned this: " + "more or less, as it was. " * 22, "Profit by desk:", *ROWS[:5]])
    chunks = list(Chunker("").page(1, text))
    assert [chunk.text.splitlines()[0][:9] for chunk in chunks] == ["The desks", "Profit by"]


def test_every_chunk_of_a_markdown_table_has_its_header() -> None:
    rows = [f"| Desk {n} | {n}.5 | {n}.7 | approved by the head of desk {n} |" for n in range(40)]
    text = "\n".join(
        ["# Limits", "## By desk", "| Desk | VaR | Stress | Approver |", "| --- | --- | --- | --- |", *rows]
    )
    chunks = list(Chunker("Risk policy").page(1, text))
    assert len(chunks) > 2
    assert all(c.context == "Risk policy\nLimits\nBy desk\n| Desk | VaR | Stress | Approver |" for c in chunks[1:])


def test_headings_apply_across_pages_and_end_with_a_higher_one() -> None:
    chunker = Chunker("")
    list(chunker.page(1, "# Risk\n\n## Limits\n\nText."))
    (second,) = chunker.page(2, "More text.")
    (third,) = chunker.page(3, "## Breaches\n\nText.")
    assert (second.context, third.context) == ("Risk\nLimits", "Risk")


def test_text_without_line_ends_is_split_at_sentences() -> None:
    text = "The desk hedges its gamma each day before the close. " * 60
    chunks = list(Chunker("").page(1, text))
    assert len(chunks) > 3
    assert all(c.text.endswith("close.") or c is chunks[-1] for c in chunks)
    assert "".join(text.split()) == "".join("".join(c.text for c in _without_overlap(chunks)).split())


def test_a_page_without_text_has_no_chunks() -> None:
    assert list(Chunker("x").page(1, " \n\n\t")) == []


@settings(max_examples=60)
@given(st.text(st.sampled_from("ab1. ,|#-\n\té漢$%"), max_size=3000))
def test_chunks_cover_all_letters_and_digits_and_are_bounded(text: str) -> None:
    chunks = list(Chunker("Subject").page(1, text))
    covered = set()
    for chunk in chunks:
        assert text[chunk.start : chunk.end] == chunk.text
        assert token_estimate.estimate(chunk.text) <= MAX_CHUNK_TOKENS + 20
        assert token_estimate.estimate(chunk.context) <= MAX_CONTEXT_TOKENS
        covered |= set(range(chunk.start, chunk.end))
    assert not any(character.isalnum() for position, character in enumerate(text) if position not in covered)


def test_text_without_a_letter_or_digit_has_no_chunk() -> None:
    text = "#" * 5_000 + "\n" + "| " * 5_000 + "\n" + "x = 1\n" + "[*]" * 5_000
    chunks = list(Chunker("").page(1, text))
    assert len(chunks) == 1
    assert "x = 1" in chunks[0].text
    assert list(Chunker("").page(1, "-_" * 50_000)) == []


LARGE_PAGE_CHARACTERS = 1 << 19


@pytest.mark.parametrize(
    "unit", ["a", "7", "#", "|", "[", "*", "-", " ", "\n", "\t", "1.", "1. ", "# ", "- ", "| ", "1\n", "|\n"]
)
def test_chunking_a_repeated_unit_takes_linear_time(unit: str) -> None:
    """A quadratic step in lines, tables or pages exceeds the time limit of the test."""
    chunker, chunks = Chunker("Subject"), 0
    for number, page in enumerate(split_long([normalize(unit * (LARGE_PAGE_CHARACTERS // len(unit)))]), 1):
        chunks += sum(1 for _ in chunker.page(number, page))
    assert (chunks > 0) is unit.strip().strip(".")[:1].isalnum()


@pytest.mark.parametrize(
    ("name", "page", "expected"),
    [
        (
            "2023 Q3 ACME.pdf",
            "UNITED STATES\nSECURITIES AND EXCHANGE COMMISSION\nFORM 10-Q\n(Mark One)\n"
            "For the quarterly period ended July 1, 2023\nACME CORPORATION\n(Exact name of registrant)",
            "Acme Corporation · Form 10-Q · period ended July 1, 2023 · 2023 Q3 ACME",
        ),
        (
            "notes_v2.txt",
            "Equity options desk - handover note\nAs of March 12, 2026\nBook: short gamma.",
            "Equity options desk - handover note · as of March 12, 2026 · notes v2",
        ),
        ("model-register.csv", "| Model | Owner |\n| --- | --- |\n| Curve | Rates |", "model register"),
        ("risk-policy.md", "# Market risk policy\n\nText.", "Market risk policy · risk policy"),
        (
            "17.txt",
            "Long-term effects of a low dose of lithium on the growth of sea urchins in warm and cold water"
            "\n\nWe measured.",
            "Long-term effects of a low dose of lithium on the growth of sea urchins in warm and cold water · 17",
        ),
        ("scan.pdf", "", "scan"),
    ],
)
def test_the_subject_of_a_document(name: str, page: str, expected: str) -> None:
    if name == "risk-policy.md":
        expected = "Market risk policy"  # the file name repeats the title
    assert subject(name, page) == expected


def test_the_estimated_number_of_tokens_is_near_the_tokenizer() -> None:
    counts = {"The Company's net sales were $81,797 million (1)% in Q3.": 18, "漢字": 2, "": 0}
    for text, count in counts.items():
        assert abs(token_estimate.estimate(text) - count) <= 2


def _without_overlap(chunks: list[Chunk]) -> Iterator[Chunk]:
    at = 0
    for chunk in chunks:
        text = chunk.text[max(0, at - chunk.start) :]
        at = chunk.end
        yield type(chunk)(chunk.page, chunk.start, chunk.end, text, chunk.context)
