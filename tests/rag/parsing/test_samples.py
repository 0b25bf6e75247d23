"""Parsing of third-party documents: text and tables as a reader sees them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path, PurePath

import pytest

from drw.rag.documents.parsing import file_types
from drw.rag.documents.parsing.parser_pool import ParsedText, ParserPool
from drw.rag.documents.ports import ParseFailed
from drw.rag.documents.settings import ParsingSettings as Settings
from rag.samples import sample

AGATE, PYEXCEL, MAIL = "agate_excel", "pyexcel_xlsx", "talon"
DOCX, PPTX, PDF, MINER, MARKDOWN = "python_docx", "python_pptx", "pdftotext", "pdfminer", "markdown"
FIXTURES, STEPS = "tests/fixtures", "features/steps/test_files"
REPLIES = f"{FIXTURES}/standard_replies"
CHART = "| Category 1 | 4.3 | 2.4 | 2 |\n| Category 2 | 2.5 | 4.4 | 2 |"
SAMPLES = [
    (AGATE, "examples/test.xlsx", ["## 'test.csv'!A1:E4\n\n| number | text | boolean | date | datetime |"]),
    (
        AGATE,
        "examples/test_skip_lines.xlsx",
        ["'test.csv'!A4:E7", "| 2 | 👍 | FALSE | 2015-11-05 | 2015-11-04 12:45 |"],
    ),
    (AGATE, "examples/test_numeric_column_name.xlsx", ["| Country | 2013 |  |", "| Canada | 35160000 | value |"]),
    (AGATE, "examples/ne_1033_data.xlsx", ["| NE | ADAMS | 31001 | 1005-00-589-1271 | RIFLE,7.62 MILLIMETER |"]),
    (AGATE, "examples/covid_19-iss.xlsx", ["# Contenuto", "| Foglio | Contenuto | Variabili |"]),
    (PYEXCEL, f"{FIXTURES}/date_field.xlsx", ["| 25/12/14 | 11:11:11 |\n| 26/12/14 | 12:12:12 |"]),
    (PYEXCEL, f"{FIXTURES}/test8.xlsx", ["# CNY", "| 2013/9/1 | 2013/9/2 | 1,000.00 | 5.00000 | 13.89 |"]),
    (PYEXCEL, f"{FIXTURES}/merged-cell-sheet.xlsx", ["| 1 | 2 | 3 |\n| 1 | 5 | 6 |\n| 1 | 8 | 9 |\n| 10 | 11 |  |"]),
    (PYEXCEL, f"{FIXTURES}/hidden.xlsx", ["## Sheet1!A1:C3\n\n| A | C |\n| --- | --- |\n| 1 | 2 |\n| 7 | 9 |"]),
    (PYEXCEL, f"{FIXTURES}/file_with_an_empty_sheet.xlsx", ["# Sheet1", "| 4 | 5 | 6 |", "# Sheet3", "| 7 | 8 | 9 |"]),
    (DOCX, f"{STEPS}/par-hyperlinks.docx", ["Three hyperlinks: the first one here, the second one, and the third."]),
    (DOCX, f"{STEPS}/blk-paras-and-tables.docx", ["Text before\n\n| Table |\n| --- |\n| Between |\n\nText after"]),
    (DOCX, f"{STEPS}/hdr-header-footer.docx", ["Header for section-1\n\nsection with header", "Footer for section 1"]),
    (
        DOCX,
        f"{STEPS}/comments-rich-para.docx",
        ["Some text worthy of note.\n\nComment: Text with hyperlink https://go"],
    ),
    (DOCX, f"{STEPS}/tbl-cell-access.docx", ["| 1 | 2 | 3 |\n| --- | --- | --- |\n| 4 |  | 6 |\n|  |  | 9 |"]),
    (DOCX, f"{STEPS}/num-having-numbering-part.docx", ["1. Paragraph having List Number style."]),
    (DOCX, f"{STEPS}/par-known-styles.docx", ["missing style\n\n# Heading 1\n\nBody Text"]),
    (PPTX, f"{STEPS}/cht-charts.pptx", ["|  | Series 1 | Series 2 | Series 3 |", CHART]),
    (PPTX, f"{STEPS}/shp-shapes.pptx", ["# shapes[0]", "Chart: shapes[4]", "| 1st Qtr | 8.2 |", "- Smart Art"]),
    (PPTX, f"{STEPS}/tbl-cell.pptx", ["| a | b | c |\n| --- | --- | --- |\n| d | e | f |\n| g | h | i |"]),
    (PPTX, f"{STEPS}/sld-notes.pptx", ["Notes: Notes"]),
    (PPTX, "tests/test_files/test_slides.pptx", ["Group test text", "| Col head 1 | Col head 2 |"]),
    (PPTX, f"{STEPS}/cht-category-access.pptx", ["| US CA SF | 4.3 | 2.4 | 2 |", "| Albany | 4.5 | 2.8 | 5 |"]),
    (MAIL, f"{REPLIES}/outlook.eml", ["# Test\n\nFrom: me@example.com\nTo: you@example.com\n\nHello", "MIME? "]),
    (MAIL, f"{REPLIES}/gmail.eml", ["Date: Mon, 2 Apr 2012 20:21:52 +0400\n\nHello", "> Hi"]),
    (MAIL, f"{REPLIES}/thunderbird.eml", ["On 04/02/2012 06:26 PM, Megan One wrote:\n> Hi"]),
    (MAIL, f"{REPLIES}/iphone.eml", ["Sent from my iPhone", "# Re: Test"]),
    (MAIL, f"{REPLIES}/hotmail.eml", ["From: Alexey Q <xxx@hotmail.com>", "> Date: Mon, 2 Apr 2012 17:44:22 +0400"]),
    (PDF, "tests/two_pages.pdf", ["one.\fPAGE\ftwo."]),
    (PDF, "tests/abcde.pdf", ["abcde."]),
    (PDF, "tests/three_columns.pdf", ["column2", "column3"]),
    (MINER, "samples/simple1.pdf", ["Hello World"]),
    (MINER, "samples/nonfree/dmca.pdf", ["The Digital Millennium Copyright Act"]),
    (MINER, "samples/nonfree/i1040nr.pdf", ["Instructions for Form 1040NR"]),
    (MINER, "samples/jo.pdf", ["因果の時空的制約のもとに"]),
    (MARKDOWN, "tests/basic/markdown-syntax.html", ["# Markdown: Syntax", "* [Philosophy](#philosophy)"]),
    (MARKDOWN, "tests/basic/ordered-and-unordered-list.html", ["asterisk 1", "1. First"]),
    (MARKDOWN, "tests/basic/links-inline.html", ["[URL and title](/url/"]),
    (MARKDOWN, "tests/basic/nested-blockquotes.html", ["foo", "bar"]),
    (MARKDOWN, "tests/basic/codeblock-in-list.html", ["- A list item with a code block", "Some *code*"]),
    (MARKDOWN, "tests/basic/markdown-syntax.txt", ["Markdown: Syntax"]),
    (MARKDOWN, "tests/basic/auto-links.txt", ["Link: <http://example.com/>."]),
    (MARKDOWN, "tests/basic/links-reference.txt", ["Foo [bar][1]."]),
    (MARKDOWN, "tests/basic/tidyness.txt", ["> A list within a blockquote:"]),
    (MARKDOWN, "tests/basic/literal-quotes.txt", ['Title with "quotes" inside']),
    (MARKDOWN, "docs/authors.md", ["title: Authors", "Primary Authors"]),
    (MARKDOWN, "docs/contributing.md", ["# Contributing to Python-Markdown"]),
    (MARKDOWN, "docs/index.md", ["Python-Markdown"]),
    (MARKDOWN, "docs/install.md", ["Installation"]),
    (MARKDOWN, "docs/cli.md", ["Command"]),
]


@pytest.fixture
async def pool() -> AsyncIterator[ParserPool]:
    pool = ParserPool(Settings(workers=1))
    yield pool
    await pool.stop()


@pytest.fixture
def read(pool: ParserPool, tmp_path: Path) -> Callable[[str, str], Awaitable[ParsedText]]:
    async def read(package: str, name: str) -> ParsedText:
        file = tmp_path / PurePath(name).name
        file.write_bytes(sample(package, name))
        return await pool.text(file, file_types.extension_of(name))

    return read


def test_each_main_file_type_has_five_samples() -> None:
    for extension in ("pdf", "docx", "html", "md", "txt", "xlsx", "pptx", "eml"):
        assert sum(name.endswith(f".{extension}") for _, name, _ in SAMPLES) >= 5, extension


async def test_the_text_of_samples_has_the_expected_parts(read: Callable[[str, str], Awaitable[ParsedText]]) -> None:
    missing = []
    for package, name, expected in SAMPLES:
        text = "\fPAGE\f".join((await read(package, name)).pages)
        missing += [(name, part, text[:400]) for part in expected if part not in text]
    assert missing == []


async def test_a_hidden_sheet_is_skipped_with_a_warning(read: Callable[[str, str], Awaitable[ParsedText]]) -> None:
    text = await read(PYEXCEL, f"{FIXTURES}/hidden_sheets.xlsx")
    assert (text.pages, text.warnings) == (
        *(["# shown\n\n## shown!A1:B1\n\n| A | B |\n| --- | --- |\n| A | B |"],),
        ["the sheet 'hidden' is hidden and was not read"],
    )


async def test_a_damaged_pdf_is_rejected_and_an_empty_pdf_has_no_text(
    read: Callable[[str, str], Awaitable[ParsedText]],
) -> None:
    with pytest.raises(ParseFailed, match="this PDF is damaged, and cannot be opened"):
        await read(PDF, "tests/corrupt.pdf")
    assert (await read(PDF, "tests/blank.pdf")).pages == [""]
