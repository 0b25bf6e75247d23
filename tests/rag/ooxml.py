"""Creates Office files from their parts, including unusual and damaged ones."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence

OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
TYPES = '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>'
NAMESPACES = (
    'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" '
    'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
    'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" '
    'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" '
    'xmlns:c="http://schemas.openxmlformats.org/drawingml/2006/chart" '
    'xmlns:dgm="http://schemas.openxmlformats.org/drawingml/2006/diagram" '
    'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006" '
    f'xmlns:r="{OFFICE}"'
)


def package(main: str, parts: Mapping[str, str | bytes], relations: Mapping[str, Sequence[str]] | None = None) -> bytes:
    """Return a package; relations are "ID KIND TARGET" for each part that has some."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", TYPES)
        archive.writestr("_rels/.rels", links([f"r1 officeDocument {main}"]))
        for name, content in parts.items():
            archive.writestr(
                name, content if isinstance(content, bytes) else content.replace(" NS>", f" {NAMESPACES}>")
            )
        for name, found in (relations or {}).items():
            folder, _, file = name.rpartition("/")
            archive.writestr(f"{folder}/_rels/{file}.rels", links(found))
    return out.getvalue()


def workbook(sheets: Mapping[str, str], formats: Sequence[str] = (), states: Mapping[str, str] | None = None) -> bytes:
    """Return a workbook of sheets, each given by the XML inside of its `worksheet`."""
    states = states or {}
    entries = "".join(
        f'<sheet name="{name}" sheetId="{n}" state="{states.get(name, "visible")}" r:id="s{n}"/>'
        for n, name in enumerate(sheets, 1)
    )
    codes = "".join(f'<numFmt numFmtId="{200 + n}" formatCode="{code}"/>' for n, code in enumerate(formats))
    styles = "".join(f'<xf numFmtId="{200 + n}"/>' for n in range(len(formats)))
    parts = {
        "xl/workbook.xml": f"<workbook NS><sheets>{entries}</sheets></workbook>",
        "xl/styles.xml": f'<styleSheet NS><numFmts>{codes}</numFmts><cellXfs><xf numFmtId="0"/>{styles}</cellXfs>'
        "</styleSheet>",
    }
    parts |= {f"xl/worksheets/sheet{n}.xml": f"<worksheet NS>{x}</worksheet>" for n, x in enumerate(sheets.values(), 1)}
    found = [f"s{n} worksheet worksheets/sheet{n}.xml" for n in range(1, len(sheets) + 1)]
    return package("xl/workbook.xml", parts, {"xl/workbook.xml": [*found, "st styles styles.xml"]})


def rows(*lines: Sequence[object], top: int = 1) -> str:
    """Return rows of cells: texts, numbers, None for no cell, "=..." for a formula, (number, style)."""
    return "<sheetData>" + "".join(_row(top + n, line) for n, line in enumerate(lines)) + "</sheetData>"


def document(body: str, parts: Mapping[str, str | bytes] | None = None, relations: Sequence[str] = ()) -> bytes:
    """Return a DOCX of the XML inside of its `w:body`."""
    main = {"word/document.xml": f"<w:document NS><w:body>{body}</w:body></w:document>"}
    return package("word/document.xml", main | dict(parts or {}), {"word/document.xml": relations})


def presentation(slides: Sequence[str], parts: Mapping[str, str] | None = None, relations: Sequence[str] = ()) -> bytes:
    """Return a PPTX of slides, each given by the XML inside of its shape tree; all have the same relations."""
    names = [f"ppt/slides/slide{n}.xml" for n in range(1, len(slides) + 1)]
    ids = "".join(f'<p:sldId id="{255 + n}" r:id="s{n}"/>' for n in range(1, len(slides) + 1))
    found = {"ppt/presentation.xml": f"<p:presentation NS><p:sldIdLst>{ids}</p:sldIdLst></p:presentation>"}
    found |= {
        name: f"<p:sld NS><p:cSld><p:spTree>{tree}</p:spTree></p:cSld></p:sld>"
        for name, tree in zip(names, slides, strict=True)
    }
    of_parts: dict[str, Sequence[str]] = {
        "ppt/presentation.xml": [f"s{n} slide slides/slide{n}.xml" for n in range(1, len(slides) + 1)]
    }
    of_parts |= dict.fromkeys(names, relations)
    return package("ppt/presentation.xml", found | dict(parts or {}), of_parts)


def links(found: Sequence[str]) -> str:
    items = (line.split() for line in found)
    elements = "".join(
        f'<Relationship Id="{i}" Type="{OFFICE}/{kind}" Target="{target}"/>' for i, kind, target in items
    )
    return f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{elements}</Relationships>'


def _row(number: int, line: Sequence[object]) -> str:
    cells = "".join(
        _cell(f"{chr(64 + column)}{number}", item) for column, item in enumerate(line, 1) if item is not None
    )
    return f'<row r="{number}">{cells}</row>'


def _cell(cell: str, item: object) -> str:
    if isinstance(item, tuple):
        return f'<c r="{cell}" s="{item[1]}"><v>{item[0]}</v></c>'
    if isinstance(item, str) and item.startswith("="):
        return f'<c r="{cell}"><f>{item[1:]}</f><v/></c>'
    if isinstance(item, str):
        return f'<c r="{cell}" t="inlineStr"><is><t>{item}</t></is></c>'
    return f'<c r="{cell}"><v>{item}</v></c>'
