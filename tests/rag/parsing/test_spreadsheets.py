"""Spreadsheets: displayed cells, tables with titles, headers and cell ranges, hidden content, formulas."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from drw.rag.documents.adapters.office import Office
from drw.rag.documents.adapters.opendocument import OpenDocument
from drw.rag.documents.adapters.plain import Plain
from drw.rag.documents.chunking.chunks import Chunker
from drw.rag.documents.parsing.sheets.number_formats import format_number
from drw.rag.documents.ports import ParseFailed, Parser, ParserLimits
from rag.ooxml import NAMESPACES, links, rows, workbook

LIMITS = ParserLimits(pages=100, characters=10_000_000, unpacked_bytes=64 << 20)
FORMATTED = [
    (0.0525, "0.00%", "5.25%"),
    (1234567.891, "#,##0.00", "1,234,567.89"),
    (-5, "#,##0_);(#,##0)", "(5)"),
    (0, '#,##0;(#,##0);"-"', "-"),
    (-1234.5, '_($* #,##0.00_);_($* \\(#,##0.00\\);_($* "-"??_);_(@_)', "$(1,234.50)"),
    (45747, "yyyy-mm-dd", "2025-03-31"),
    (45747.5, "d-mmm-yy h:mm AM/PM", "31-Mar-25 12:00 PM"),
    (60, "mmm d", "Feb 28"),
    (1.5, "[h]:mm:ss", "36:00:00"),
    (45747.123, "mm:ss", "57:07"),
    (12345, "0.00E+00", "1.23E+04"),
    (123456, "##0.0E+0", "123.5E+3"),
    (2.75, "# ?/?", "2 3/4"),
    (5551234, "000\\-0000", "555-1234"),
    (1234567, '0.0,,"M"', "1.2M"),
    (1234.5, "[$€-407] #,##0.00", "€ 1,234.50"),
    (25, '0" bps"', "25 bps"),
    (150, '[>=100]"high";"low"', "high"),
    (-0.004, "0.00", "0.00"),
    (1, ";;;", ""),
    (0.1 + 0.2, "General", "0.3"),
    (1 / 3, "General", "0.333333333"),
    (9841.5, "General", "9841.5"),
    (3e8, "yyyy", "300000000"),
    *((value, code, "#NUM!") for value in (math.inf, math.nan) for code in ("0.00E+00", "# ?/?", "0.00", "yyyy")),
    (5e-324, "0.00E+00", "4.94066E-324"),
    (1e308, "0%%", "1.00000E+308"),
    (1.0, "0" + "," * 150, "1"),
    (1.0, "0" + "%" * 200, "1"),
    (2, "[>1.2.3]0", "2"),
]


def read(
    content: bytes,
    tmp_path: Path,
    extension: str = "xlsx",
    limits: ParserLimits = LIMITS,
    parser: Callable[[], Parser] = Office,
) -> tuple[list[str], list[str]]:
    file = tmp_path / f"a.{extension}"
    file.write_bytes(content)
    parser_instance = parser()
    return list(parser_instance.pages(file, extension, limits)), parser_instance.warnings


@pytest.mark.parametrize(("value", "code", "text"), FORMATTED)
def test_numbers_are_formatted_by_their_format_code(value: float, code: str, text: str) -> None:
    assert format_number(value, code) == text


def test_a_table_has_its_title_headers_formatted_values_and_range(tmp_path: Path) -> None:
    book = workbook(
        {
            "Q1 2025": rows(
                *(["Revenue by segment"], ["(USD million)"]),
                *([None, "2024", None, "2025"], ["Segment", "Q1", "Q2", "Q1"]),
                *(["Execution", (102.5, 1), (98.25, 1), (0.5, 2)], ["Clearing", (7, 1), (8, 1), (45747, 3)]),
            )
            + '<mergeCells><mergeCell ref="A1:D1"/><mergeCell ref="B3:C3"/></mergeCells>'
        },
        ["0.00", "0%", "yyyy-mm-dd"],
    )
    assert read(book, tmp_path) == (
        [
            "# Q1 2025\n\n## 'Q1 2025'!A3:D6 · Revenue by segment · (USD million)\n\n"
            "| Segment | 2024 Q1 | 2024 Q2 | 2025 Q1 |\n| --- | --- | --- | --- |\n"
            "| Execution | 102.50 | 98.25 | 50% |\n| Clearing | 7.00 | 8.00 | 2025-03-31 |"
        ],
        [],
    )


def test_every_chunk_of_a_long_sheet_has_its_title_headers_and_range(tmp_path: Path) -> None:
    body = [[f"Desk {n}", f"Product {n}", n * 1.5] for n in range(400)]
    book = workbook({"Limits": rows(["Risk limits, USD million"], ["Desk", "Product", "Limit"], *body)})
    (page,), _ = read(book, tmp_path)
    chunks = list(Chunker("limits").page(1, page))
    assert len(chunks) > 20
    for chunk in chunks:
        passage = f"{chunk.context}\n{chunk.text}"
        assert "| Desk | Product | Limit |" in passage
        assert "Risk limits, USD million" in passage
        assert "Limits!A" in passage
    assert "Limits!A2:C" in page
    assert page.count("| Desk 399 |") == 1


def test_a_wide_sheet_is_split_by_columns_and_repeats_the_first_column(tmp_path: Path) -> None:
    header = [f"Long header number {n}" for n in range(26)]
    (page,), _ = read(workbook({"W": rows(header, [f"cell {n}" for n in range(26)])}), tmp_path)
    blocks = page.split("\n\n## ")[1:]
    assert len(blocks) > 2
    assert all("| cell 0 |" in block for block in blocks)
    assert page.count("| cell 25 |") == 1


def test_hidden_sheets_rows_and_columns_are_skipped_unless_enabled(tmp_path: Path) -> None:
    hidden = rows(["a", "b", "c"], [1, 2, 3], [4, 5, 6]).replace('<row r="2">', '<row r="2" hidden="1">')
    columns = '<cols><col min="2" max="2" hidden="1"/></cols>'
    book = workbook({"S": columns + hidden, "Secret": rows(["x"])}, states={"Secret": "veryHidden"})
    pages, warnings = read(book, tmp_path)
    assert pages == ["# S\n\n## S!A1:C3\n\n| a | c |\n| --- | --- |\n| 4 | 6 |"]
    assert warnings == [
        "the sheet 'Secret' is hidden and was not read",
        "1 rows and 1 columns of the sheet 'S' are hidden and were not read",
    ]
    pages, warnings = read(book, tmp_path, limits=ParserLimits(100, 10_000, 1 << 20, hidden=True))
    assert ("| 1 | 2 | 3 |" in pages[0], "x" in pages[1], warnings) == (True, True, [])


def test_comments_are_read_except_on_hidden_cells(tmp_path: Path) -> None:
    cells = rows(["a", "b"], ["c", "d"]).replace('<row r="2">', '<row r="2" hidden="1">')
    comment = '<comment ref="{0}"><text><t>On {0}</t></text></comment>'
    comments = "<comments NS>" + "".join(comment.format(cell) for cell in ("A1", "B1", "A2", "A9")) + "</comments>"
    book = BytesIO(workbook({"S": '<cols><col min="2" max="2" hidden="1"/></cols>' + cells}))
    with zipfile.ZipFile(book, "a") as archive:
        archive.writestr("xl/comments.xml", comments.replace(" NS", f" {NAMESPACES}"))
        archive.writestr("xl/worksheets/_rels/sheet1.xml.rels", links(["c comments ../comments.xml"]))
    (page,), _ = read(book.getvalue(), tmp_path)
    assert page.split("\n\n")[-2:] == ["Comment on S!A1: On A1", "Comment on S!A9: On A9"]
    assert "A2" not in page.split("\n\n", 2)[2]
    (page,), _ = read(book.getvalue(), tmp_path, limits=ParserLimits(100, 10_000, 1 << 20, hidden=True))
    assert page.count("Comment on ") == 4


@pytest.mark.parametrize("number", ["²", "x", "-1", "1" * 5000])
def test_an_invalid_number_damages_only_its_cell(number: str, tmp_path: Path) -> None:
    cells = f'<sheetData><row r="{number}"><c r="A1" s="{number}"><v>7</v></c></row></sheetData>'
    columns = f'<cols><col min="{number}" max="2" hidden="1"/></cols>'
    strings = f'<sheetData><row r="1"><c t="s"><v>{number}</v></c><c><v>7</v></c></row></sheetData>'
    for content in (cells, columns + rows([7]), strings):
        pages, warnings = read(workbook({"S": content}), tmp_path)
        assert ("| 7 |" in pages[0], warnings) == (True, [])


FORMULAS = [
    ("=B1*2", "20"),
    ("=SUM(B1:B3)/4", "15"),
    ("=-B1^2", "100"),
    ("=B1+B2*3%", "10.6"),
    ('=IF(B1>5,"over","under")', "over"),
    ("=IFERROR(B1/0,ROUND(2.345,2))", "2.35"),
    ("=B1/B9", "#DIV/0!"),
    ("=AVERAGE('Other one'!A1:A2)&amp;\" bps\"", "15 bps"),
    ("=MAX(B1:B3)-MIN(B1:B3)", "20"),
    ("=C9", "=C9"),
    ("=OFFSET(B1,1,0)", "=OFFSET(B1,1,0)"),
    ("=1+", "=1+"),
    ('=INT("nan")', '=INT("nan")'),
    ('=SUM(VALUE("inf"))', '=SUM(VALUE("inf"))'),
    ("=" + "(" * 500 + "1" + ")" * 500, "=" + "(" * 500 + "1" + ")" * 500),
]


@pytest.mark.parametrize(("formula", "text"), FORMULAS, ids=[f[:20] for f, _ in FORMULAS])
def test_a_formula_without_a_stored_value_is_computed_or_shown_as_text(formula: str, text: str, tmp_path: Path) -> None:
    sheet = rows(["a", 10], ["b", 20], ["c", 30], top=1) + rows(["result", None, formula], top=9)
    pages, _ = read(workbook({"S": sheet, "Other one": rows([10], [20])}), tmp_path)
    assert f"| {text} |" in pages[0]


def test_a_stored_value_takes_precedence_over_its_formula(tmp_path: Path) -> None:
    sheet = '<sheetData><row r="1"><c r="A1"><f>1+1</f><v>7</v></c></row></sheetData>'
    assert read(workbook({"S": sheet}), tmp_path) == (["# S\n\n## S!A1\n\n| A |\n| --- |\n| 7 |"], [])


def test_a_damaged_sheet_is_a_warning_and_the_others_are_read(tmp_path: Path) -> None:
    book = workbook({"Good": rows(["fine"]), "Bad": rows(["begin"], ["lost"]).replace("lost", "<lost")})
    pages, warnings = read(book, tmp_path)
    assert pages == ["# Good\n\nfine", "# Bad\n\nbegin"]
    assert warnings == ["the sheet 'Bad' is damaged after row 1: what could be read was kept"]


def test_sheets_with_excessive_rows_or_entities_are_bounded(tmp_path: Path) -> None:
    empty = "<sheetData>" + '<row r="1048576"/>' * 50_000 + "</sheetData>"
    merged = "<mergeCells>" + '<mergeCell ref="A1:XFD1048576"/>' * 1000 + "</mergeCells>"
    assert read(workbook({"S": rows(["top"], ["a", "b"], [1, 2]) + merged, "E": empty}), tmp_path)[0]
    entities = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">]>'
    bomb = workbook({"S": rows(["x"])})
    changed = BytesIO()
    with zipfile.ZipFile(BytesIO(bomb)) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, entities.encode() + content if name.endswith("workbook.xml") else content)
    with pytest.raises(ParseFailed, match="list of sheets cannot be read"):
        read(changed.getvalue(), tmp_path)


def test_circular_formulas_are_shown_as_text(tmp_path: Path) -> None:
    pages, warnings = read(workbook({"S": rows(["=B1", "=A1"], ["=SUM(A1:B1)", 1])}), tmp_path)
    assert "| =B1 | =A1 |" in pages[0]
    assert warnings == ["3 formulas have no stored value and are shown as formulas"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_csv_file_is_a_table_with_any_delimiter(delimiter: str, tmp_path: Path) -> None:
    text = "\r\n".join(delimiter.join(line) for line in (["Desk", "Händler", "VaR"], ["Rates", '"a, b"', "6.8"]))
    pages, _ = read(text.encode("cp1252"), tmp_path, "csv", parser=Plain)
    assert pages == ["## A1:C2\n\n| Desk | Händler | VaR |\n| --- | --- | --- |\n| Rates | a, b | 6.8 |"]


def test_a_line_separator_inside_a_cell_of_csv_does_not_end_its_row(tmp_path: Path) -> None:
    text = "Desk,Note\nRates,first\u2028second\x0bthird\nFX,\x85\n"
    (page,), _ = read(text.encode(), tmp_path, "csv", parser=Plain)
    assert page.endswith("| Desk | Note |\n| --- | --- |\n| Rates | first second third |\n| FX |  |")


def test_csv_parsing_takes_linear_time(tmp_path: Path) -> None:
    """Quadratic detection of the delimiter or of numbers exceeds the time limit of the test."""
    for text in (",'x" * 22_000, ',"' * 32_000, "a,b\n1" + " " * 100_000 + "x,2\n"):
        read(text.encode(), tmp_path, "csv", parser=Plain)


def test_hidden_rows_and_columns_of_ods_are_skipped_with_a_warning(tmp_path: Path) -> None:
    cell = "<c:table-cell><t:p>{}</t:p></c:table-cell>"
    content = (
        '<o xmlns:c="urn:oasis:names:tc:opendocument:xmlns:table:1.0" xmlns:t="urn:t"><c:table c:name="S">'
        '<c:table-column/><c:table-column c:number-columns-repeated="2" c:visibility="collapse"/><c:table-column/>'
        + "".join(f"<c:table-row{hidden}>{''.join(map(cell.format, words))}</c:table-row>"
                  for hidden, words in (("", "abcd"), (' c:visibility="filter"', "wxyz"), ("", "efgh")))
        + "</c:table></o>"
    )  # fmt: skip
    output = BytesIO()
    with zipfile.ZipFile(output, "w") as archive:
        archive.writestr("content.xml", content)
    pages, warnings = read(output.getvalue(), tmp_path, "ods", parser=OpenDocument)
    assert pages[0].endswith("| a | d |\n| --- | --- |\n| e | h |")
    assert warnings == ["1 rows and 2 columns of the sheet 'S' are hidden and were not read"]
    with_hidden = ParserLimits(100, 10_000, 1 << 20, hidden=True)
    pages, warnings = read(output.getvalue(), tmp_path, "ods", limits=with_hidden, parser=OpenDocument)
    assert ("| w | x | y | z |" in pages[0], warnings) == (True, [])


def test_ods_cells_have_their_displayed_text(tmp_path: Path) -> None:
    cell = '<c:table-cell office:value-type="float" office:value="0.5"><t:p>50 %</t:p></c:table-cell>'
    content = (
        '<o xmlns:c="urn:oasis:names:tc:opendocument:xmlns:table:1.0" xmlns:office="urn:o" xmlns:t="urn:t">'
        '<c:table c:name="Rates"><c:table-row><c:table-cell><t:p>Desk</t:p></c:table-cell>'
        "<c:table-cell><t:p>Share</t:p></c:table-cell></c:table-row>"
        f"<c:table-row><c:table-cell><t:p>FX<t:s/>spot</t:p></c:table-cell>{cell}</c:table-row>"
        '<c:table-row c:number-rows-repeated="1048574"><c:table-cell c:number-columns-repeated="16384"/>'
        "</c:table-row></c:table></o>"
    )
    output = BytesIO()
    with zipfile.ZipFile(output, "w") as archive:
        archive.writestr("content.xml", content)
    pages, _ = read(output.getvalue(), tmp_path, "ods", parser=OpenDocument)
    assert pages == ["# Rates\n\n## Rates!A1:B2\n\n| Desk | Share |\n| --- | --- |\n| FX spot | 50 % |"]
