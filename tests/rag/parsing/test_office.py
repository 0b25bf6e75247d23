"""DOCX, PPTX and XLSX files: their text in reading order, warnings, and decryption."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import msoffcrypto.format.ooxml
import pytest

from drw.rag.documents.adapters.office import Office
from drw.rag.documents.ports import ParseFailed, ParserLimits
from rag.ooxml import NAMESPACES, document, presentation, rows, workbook

LIMITS = ParserLimits(pages=100, characters=1_000_000, unpacked_bytes=64 << 20)
TEXT = "<w:p><w:r><w:t>{}</w:t></w:r></w:p>"
SHAPE = (
    "<p:sp><p:nvSpPr><p:cNvPr/><p:nvPr>{}</p:nvPr></p:nvSpPr>"
    "<p:txBody><a:p><a:r><a:t>{}</a:t></a:r></a:p></p:txBody></p:sp>"
)
CHART = (
    "<c:chartSpace NS><c:chart><c:title><c:tx><c:rich><a:p><a:r><a:t>VaR by desk</a:t></a:r></a:p></c:rich></c:tx>"
    "</c:title><c:plotArea><c:barChart><c:ser><c:tx><c:strRef><c:strCache><c:pt idx='0'><c:v>2025</c:v></c:pt>"
    "</c:strCache></c:strRef></c:tx><c:cat><c:strRef><c:strCache><c:pt idx='0'><c:v>Rates</c:v></c:pt>"
    "<c:pt idx='1'><c:v>Metals</c:v></c:pt></c:strCache></c:strRef></c:cat><c:val><c:numRef><c:numCache>"
    "<c:formatCode>0.0</c:formatCode><c:pt idx='0'><c:v>6.84</c:v></c:pt><c:pt idx='1'><c:v>3</c:v></c:pt>"
    "</c:numCache></c:numRef></c:val></c:ser></c:barChart></c:plotArea></c:chart></c:chartSpace>"
)
CHART_TEXT = "Chart: VaR by desk\n\n|  | 2025 |\n| --- | --- |\n| Rates | 6.8 |\n| Metals | 3.0 |"
POINT = "<dgm:pt modelId='{}'><dgm:t><a:p><a:r><a:t>{}</a:t></a:r></a:p></dgm:t></dgm:pt>"
DIAGRAM = (
    "<dgm:dataModel NS><dgm:ptLst><dgm:pt modelId='0' type='doc'/>"
    + POINT.format(1, "Board")
    + POINT.format(2, "Risk")
    + POINT.format(3, "Audit")
    + "</dgm:ptLst><dgm:cxnLst><dgm:cxn srcId='0' destId='1' srcOrd='0'/><dgm:cxn srcId='1' destId='3' srcOrd='1'/>"
    "<dgm:cxn srcId='1' destId='2' srcOrd='0'/></dgm:cxnLst></dgm:dataModel>"
)
CHART_AND_DIAGRAM = "<c:chart r:id='c'/><dgm:relIds r:dm='d'/>"
DIAGRAM_TEXT = "- Board\n  - Risk\n  - Audit"
PASSWORD = "correct horse"


def read(content: bytes, tmp_path: Path, extension: str, limits: ParserLimits = LIMITS) -> tuple[list[str], list[str]]:
    file = tmp_path / f"a.{extension}"
    file.write_bytes(content)
    parser = Office()
    return list(parser.pages(file, extension, limits)), parser.warnings


def test_text_boxes_notes_charts_and_diagrams_follow_their_anchor(tmp_path: Path) -> None:
    box = "<w:drawing><w:txbxContent>" + TEXT.format("In a box") + "</w:txbxContent></w:drawing>"
    alternatives = f"<mc:AlternateContent><mc:Choice>{box}</mc:Choice><mc:Fallback><w:pict>{box}</w:pict></mc:Fallback>"
    body = (
        TEXT.format("Before")
        + f"<w:p><w:r><w:t>Anchor</w:t><w:footnoteReference w:id='2'/>{alternatives}</mc:AlternateContent></w:r></w:p>"
        + f"<w:p><w:r><w:drawing>{CHART_AND_DIAGRAM}</w:drawing></w:r></w:p>"
        + "<w:p><w:del><w:r><w:delText>gone</w:delText></w:r></w:del><w:ins><w:r><w:t>After</w:t></w:r></w:ins></w:p>"
        + "<w:sdt><w:sdtContent>"
        + TEXT.format("In a control")
        + "</w:sdtContent></w:sdt>"
    )
    notes = "<w:footnotes NS><w:footnote w:id='2'>" + TEXT.format("See policy 7") + "</w:footnote></w:footnotes>"
    parts = {"word/footnotes.xml": notes, "word/chart.xml": CHART, "word/data.xml": DIAGRAM}
    parts["word/header1.xml"] = "<w:hdr NS>" + TEXT.format("Confidential") + "</w:hdr>"
    relations = ["f footnotes footnotes.xml", "c chart chart.xml", "d diagramData data.xml", "h header header1.xml"]
    (page,), _ = read(document(body, parts, relations), tmp_path, "docx")
    assert page.split("\n\n") == [
        *("Confidential", "Before", "Anchor[1]", "[1] See policy 7", "In a box"),
        *CHART_TEXT.split("\n\n"),
        *(DIAGRAM_TEXT, "After", "In a control"),
    ]


def test_embedded_documents_are_read_in_place(tmp_path: Path) -> None:
    inner = document(TEXT.format("From another document"))
    page = "<html><body><h2>Fees</h2><table><tr><th>Desk</th></tr><tr><td>FX</td></tr></table></body></html>"
    archive = f"MIME-Version: 1.0\r\nContent-Type: text/html\r\n\r\n{page.replace('Fees', 'Rates')}"
    body = TEXT.format("Before") + "".join(f"<w:altChunk r:id='{i}'/>" for i in "abcde") + TEXT.format("After")
    relations = [
        f"{i} aFChunk {n}" for i, n in zip("abcde", ("a.docx", "b.html", "c.txt", "d.mht", "e.bin"), strict=True)
    ]
    parts = {"word/a.docx": inner, "word/b.html": page.encode(), "word/c.txt": "Größe".encode("cp1252")}
    parts |= {"word/d.mht": archive.encode(), "word/e.bin": b"\0"}
    (text,), warnings = read(document(body, parts, relations), tmp_path, "docx")
    for part in ("From another document", "## Fees", "| FX", "Größe", "## Rates", "After"):
        assert text.index("Before") < text.index(part) <= text.index("After")
    assert warnings == ["the embedded document 'e.bin' was not read: '.bin' files cannot be read"]


def test_nested_embedded_documents_are_limited_in_depth(tmp_path: Path) -> None:
    content = document(TEXT.format("Core"))
    for _ in range(8):
        content = document("<w:altChunk r:id='a'/>", {"word/a.docx": content}, ["a aFChunk a.docx"])
    _, warnings = read(content, tmp_path, "docx")
    assert warnings == ["the embedded document 'a.docx' was not read: documents are embedded too deep"]


def test_headings_lists_tables_and_page_breaks_of_a_document(tmp_path: Path) -> None:
    level = "<w:lvl w:ilvl='{}'><w:numFmt w:val='{}'/><w:lvlText w:val='{}'/></w:lvl>"
    levels = level.format(0, "decimal", "%1.") + level.format(1, "lowerLetter", "%1.%2)")
    numbering = f"<w:numbering NS><w:abstractNum w:abstractNumId='0'>{levels}</w:abstractNum>"
    numbering += "<w:num w:numId='1'><w:abstractNumId w:val='0'/></w:num></w:numbering>"
    styles = "<w:styles NS><w:style w:styleId='H'><w:name w:val='heading 2'/></w:style></w:styles>"
    item = (
        "<w:p><w:pPr><w:numPr><w:ilvl w:val='{}'/><w:numId w:val='1'/></w:numPr></w:pPr><w:r><w:t>{}</w:t></w:r></w:p>"
    )
    cell = "<w:tc><w:tcPr>{}</w:tcPr>" + TEXT + "</w:tc>"
    table = (
        "<w:tbl><w:tr>" + cell.format("<w:gridSpan w:val='2'/>", "Limits") + "</w:tr><w:tr>"
        + cell.format("", "Rates") + cell.format("", "6.0") + "</w:tr></w:tbl>"
    )  # fmt: skip
    body = (
        "<w:p><w:pPr><w:pStyle w:val='H'/></w:pPr><w:r><w:t>Scope</w:t></w:r></w:p>"
        + item.format(0, "One") + item.format(1, "Deep") + item.format(1, "Deeper") + item.format(0, "Two") + table
        + "<w:p><w:r><w:br w:type='page'/><w:t>Next page</w:t></w:r></w:p>"
    )  # fmt: skip
    relations = ["n numbering numbering.xml", "s styles styles.xml"]
    content = document(body, {"word/numbering.xml": numbering, "word/styles.xml": styles}, relations)
    assert read(content, tmp_path, "docx")[0] == [
        "## Scope\n\n1. One\n\n  1.a) Deep\n\n  1.b) Deeper\n\n2. Two\n\n| Limits |  |\n| --- | --- |\n| Rates | 6.0 |",
        "Next page",
    ]


@pytest.mark.parametrize("number", ["²", "x", "-1", "1" * 5000])
def test_an_invalid_number_does_not_damage_a_document(number: str, tmp_path: Path) -> None:
    numbering = (
        f"<w:numbering NS><w:abstractNum w:abstractNumId='0'><w:lvl w:ilvl='{number}'>"
        f"<w:start w:val='{number}'/></w:lvl></w:abstractNum>"
        "<w:num w:numId='1'><w:abstractNumId w:val='0'/></w:num></w:numbering>"
    )
    body = (
        f"<w:p><w:pPr><w:outlineLvl w:val='{number}'/><w:numPr><w:ilvl w:val='{number}'/><w:numId w:val='1'/></w:numPr>"
        f"</w:pPr><w:r><w:t>Text</w:t></w:r></w:p><w:p><w:r><w:drawing>{CHART_AND_DIAGRAM}</w:drawing></w:r></w:p>"
    )
    chart, diagram = CHART.replace("idx='1'", f"idx='{number}'"), DIAGRAM.replace("srcOrd='0'", f"srcOrd='{number}'")
    parts = {"word/numbering.xml": numbering, "word/chart.xml": chart, "word/data.xml": diagram}
    relations = ["n numbering numbering.xml", "c chart chart.xml", "d diagramData data.xml"]
    (page,), _ = read(document(body, parts, relations), tmp_path, "docx")
    assert "Text" in page and "| Rates | 6.8 |" in page and "- Board" in page


def test_footnotes_are_numbered_in_order_of_reference(tmp_path: Path) -> None:
    ids = (7, 5, 7)
    body = "<w:p><w:r><w:t>Text</w:t>" + "".join(f"<w:footnoteReference w:id='{n}'/>" for n in ids) + "</w:r></w:p>"
    assert read(document(body), tmp_path, "docx")[0] == ["Text[1][2][1]"]


def test_slides_have_tables_charts_diagrams_and_notes(tmp_path: Path) -> None:
    cell = "<a:tc><p:txBody><a:p><a:r><a:t>{}</a:t></a:r></a:p></p:txBody></a:tc>"
    table = (
        "<p:graphicFrame><a:tbl><a:tr>"
        + cell.format("Desk")
        + cell.format("VaR|95")
        + "</a:tr></a:tbl></p:graphicFrame>"
    )
    group = "<p:grpSp><p:nvGrpSpPr/>" + SHAPE.format("", "Grouped") + "</p:grpSp>"
    tree = (
        SHAPE.format("", "Body") + SHAPE.format("<p:ph type='title'/>", "Risk")
        + SHAPE.format("<p:ph type='sldNum'/>", "7")
        + table + f"<p:graphicFrame>{CHART_AND_DIAGRAM}</p:graphicFrame>" + group
    )  # fmt: skip
    notes = (
        "<p:notes NS><p:cSld><p:spTree>"
        + SHAPE.format("<p:ph type='body'/>", "Say this")
        + "</p:spTree></p:cSld></p:notes>"
    )
    parts = {"ppt/slides/c.xml": CHART, "ppt/slides/d.xml": DIAGRAM, "ppt/slides/n.xml": notes}
    relations = ["c chart c.xml", "d diagramData d.xml", "n notesSlide n.xml"]
    (page,), _ = read(presentation([tree], parts, relations), tmp_path, "pptx")
    assert page.split("\n\n") == [
        *("# Risk", "Body", "| Desk | VaR\\|95 |\n| --- | --- |"),
        *CHART_TEXT.split("\n\n"),
        *(DIAGRAM_TEXT, "Grouped", "Notes: Say this"),
    ]


def test_a_damaged_or_hidden_slide_is_a_warning_and_the_others_are_read(tmp_path: Path) -> None:
    slides = presentation([SHAPE.format("", "One"), SHAPE.format("", "Two") + "<broken", SHAPE.format("", "Three")])
    pages, warnings = read(slides, tmp_path, "pptx")
    assert (pages, warnings) == (["One", "Two", "Three"], ["slide 2 is damaged: what could be read was kept"])
    hidden = presentation([SHAPE.format("", "One")], {"ppt/slides/slide1.xml": f"<p:sld {NAMESPACES} show='0'/>"})
    assert read(hidden, tmp_path, "pptx") == ([""], ["slide 1 is hidden and was not read"])


def test_deeply_nested_tables_are_read_without_a_crash(tmp_path: Path) -> None:
    deep = document("<w:tbl><w:tr><w:tc>" * 2000 + TEXT.format("Deep") + "</w:tc></w:tr></w:tbl>" * 2000)
    assert "Deep" in read(deep, tmp_path, "docx")[0][0]


def encrypt(content: bytes, password: str) -> bytes:
    padded, output = io.BytesIO(content), io.BytesIO()
    with zipfile.ZipFile(padded, "a") as archive:
        archive.comment = b" " * 5000  # msoffcrypto cannot encrypt very short files
    msoffcrypto.format.ooxml.OOXMLFile(io.BytesIO(padded.getvalue())).encrypt(password, output)
    return output.getvalue()


def test_an_encrypted_workbook_is_decrypted_only_with_its_password(tmp_path: Path) -> None:
    book = workbook({"S": rows(["secret"])})
    file = tmp_path / "a.xlsx"
    file.write_bytes(encrypt(book, PASSWORD))
    with pytest.raises(ParseFailed, match="encrypted: give its password") as rejected:
        Office().check(file, "xlsx", LIMITS)
    assert rejected.value.code == "password_required"
    for password, code in (("", "password_required"), ("correct pony", "wrong_password")):
        with pytest.raises(ParseFailed) as rejected:
            Office().decrypt(file, "xlsx", password)
        assert (rejected.value.code, password not in rejected.value.message or not password) == (code, True)
    assert read(Office().decrypt(file, "xlsx", PASSWORD), tmp_path, "xlsx")[0] == ["# S\n\nsecret"]


def test_a_workbook_with_a_protected_structure_needs_no_password(tmp_path: Path) -> None:
    file = tmp_path / "a.xlsx"
    file.write_bytes(encrypt(workbook({"S": rows(["open"])}), "VelvetSweatshop"))
    assert read(Office().decrypt(file, "xlsx", ""), tmp_path, "xlsx")[0] == ["# S\n\nopen"]
    protected = workbook({"S": rows(["open"]) + '<sheetProtection sheet="1" password="CC1A"/>'})
    assert read(protected, tmp_path, "xlsx")[0] == ["# S\n\nopen"]
