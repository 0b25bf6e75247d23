"""Reader of XLSX workbooks: displayed cells from stored values, without hidden ones."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from drw.rag.documents.parsing.ooxml import drawing
from drw.rag.documents.parsing.ooxml.elements import (
    attribute,
    child,
    children,
    descendants,
    integer,
    relation_id,
    tag,
)
from drw.rag.documents.parsing.ooxml.package import DamagedPart, Package
from drw.rag.documents.parsing.sheets import formulas, number_formats
from drw.rag.documents.parsing.sheets.formulas import Formula
from drw.rag.documents.parsing.sheets.grid import MAX_CELLS, Cell, Range, Sheet, position, rectangle
from drw.rag.documents.ports import ParseFailed

MAX_MERGED = 100_000
MAX_CELL_CHARACTERS = 32_767
"""Of one cell: Excel's own limit."""


@dataclass(slots=True)
class Workbook:
    """The sheets of a workbook, with warnings."""

    sheets: list[Sheet] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    formulas: list[Formula] = field(default_factory=list)
    """Those without a stored value."""


class _Styles:
    """The number format of each cell style."""

    def __init__(self, package: Package, name: str) -> None:
        self._codes: list[str] = []
        try:
            root = package.root(name)
        except DamagedPart:  # a workbook may have none
            return
        own = {attribute(e, "numFmtId"): attribute(e, "formatCode") for e in descendants(root, "numFmt")}
        for style in children(child(root, "cellXfs"), "xf"):
            id_ = attribute(style, "numFmtId") or "0"
            self._codes.append(own.get(id_, number_formats.BUILT_IN.get(integer(id_, -1), "General")))

    def code(self, style: str) -> str:
        """Return the format code of a style."""
        number = integer(style)
        return self._codes[number] if number < len(self._codes) else "General"


class WorkbookReader:
    """Reads one workbook."""

    def __init__(self, package: Package, *, hidden: bool) -> None:
        self._package = package
        self._hidden = hidden
        self._book = Workbook()
        self._cells = 0
        self._left_out: list[tuple[Sheet, _Hidden]] = []
        self._main = package.main_part("xl/workbook.xml")
        try:
            self._root = package.root(self._main)
        except DamagedPart as error:
            raise ParseFailed("this workbook is damaged: its list of sheets cannot be read") from error
        self._relations = package.relations(self._main)
        self._strings = list(self._shared_strings())
        self._styles = _Styles(package, self._part("styles"))
        properties = child(self._root, "workbookPr")
        self._since_1904 = properties is not None and attribute(properties, "date1904") in {"1", "true"}

    def read(self) -> Workbook:
        """Return the sheets that a reader sees, in their order.

        Raises:
            ParseFailed: it has more cells than a file may have.
        """
        book = self._book
        hidden = []
        for entry in descendants(child(self._root, "sheets"), "sheet"):
            sheet = Sheet(attribute(entry, "name"))
            relation = self._relations.get(relation_id(entry))
            if relation is None or relation.kind not in {"worksheet", "chartsheet", "dialogsheet"}:
                continue
            if attribute(entry, "state") in {"hidden", "veryHidden"} and not self._hidden:
                book.warnings.append(f"the sheet {sheet.name!r} is hidden and was not read")
                hidden.append((sheet, relation.target))
                continue
            book.sheets.append(sheet)
            self._read(sheet, relation.target)
        if book.formulas:  # they may refer to hidden cells
            for sheet, part in hidden:
                with suppress(DamagedPart):
                    self._rows(sheet, part, _Hidden())
            book.warnings += formulas.compute([*book.sheets, *(sheet for sheet, _ in hidden)], book.formulas)
        for sheet, left_out in self._left_out:
            left_out.remove_from(sheet)
            if left_out.summary:
                book.warnings.append(f"{left_out.summary} of the sheet {sheet.name!r} are hidden and were not read")
        return book

    def _part(self, kind: str) -> str:
        target = next((r.target for r in self._relations.values() if r.kind == kind), "")
        return target or posixpath.join(posixpath.dirname(self._main), f"{kind}.xml")

    def _shared_strings(self) -> Iterator[str]:
        name = self._part("sharedStrings")
        if name not in self._package:
            return
        try:
            for event, element in self._package.elements(name):
                if event == "end" and tag(element) == "si":
                    yield _rich_text(element)
                    element.clear()
        except DamagedPart:
            self._book.warnings.append("the workbook's texts are damaged: some cells could not be read")

    def _read(self, sheet: Sheet, part: str) -> None:
        left_out = _Hidden()
        try:
            self._rows(sheet, part, left_out)
        except DamagedPart:
            after = f" after row {max(sheet.rows)}" if sheet.rows else ""
            self._book.warnings.append(f"the sheet {sheet.name!r} is damaged{after}: what could be read was kept")
        if not self._hidden:
            self._left_out.append((sheet, left_out))
        for relation in self._package.relations(part).values():
            if relation.kind == "drawing":
                sheet.more += drawing.texts_of_part(self._package, relation.target)
            elif relation.kind == "comments":
                sheet.more += self._comments(sheet, relation.target, left_out)

    def _rows(self, sheet: Sheet, part: str, left_out: _Hidden) -> None:
        row = 0
        column = 0
        for event, element in self._package.elements(part):
            name = tag(element)
            if event == "start" and name == "row":
                row, column = integer(attribute(element, "r"), row + 1), 0
                if _is_hidden(element):
                    left_out.rows.add(row)
            elif event == "end" and name == "c":
                cell_position = position(attribute(element, "r"))
                row, column = cell_position or (row, column + 1)
                self._cell(sheet, element, row, column)
                element.clear()
            elif event == "end" and name in {"row", "sheetData"}:
                element.clear()
            elif event == "end" and name == "col" and _is_hidden(element):
                left_out.add_columns(attribute(element, "min"), attribute(element, "max"))
            elif event == "end" and name == "mergeCell" and (merged := rectangle(attribute(element, "ref"))):
                sheet.merged += [merged] if len(sheet.merged) < MAX_MERGED else []

    def _cell(self, sheet: Sheet, element: Element, row: int, column: int) -> None:
        code = self._styles.code(attribute(element, "s"))
        formula = child(element, "f")
        stored = child(element, "v")
        if formula is not None and formula.text and (stored is None or not stored.text):
            if attribute(element, "t") != "str":
                self._count()
                self._book.formulas.append(Formula(sheet, row, column, formula.text, code, self._since_1904))
            return
        if cell := self._shown(element, stored.text or "" if stored is not None else "", code):
            self._count()
            sheet.rows.setdefault(row, {})[column] = cell

    def _count(self) -> None:
        self._cells += 1
        if self._cells > MAX_CELLS:
            raise ParseFailed(f"this workbook has more than {MAX_CELLS:,} cells with content")

    def _shown(self, element: Element, stored: str, code: str) -> Cell | None:
        kind = attribute(element, "t")
        if kind == "s":
            number = integer(stored, -1)
            return _text(self._strings[number] if 0 <= number < len(self._strings) else "", code)
        if kind == "inlineStr":
            inline = child(element, "is")
            return _text(_rich_text(inline) if inline is not None else "", code)
        if kind in {"str", "e", "d"}:
            return _text(stored, code)
        if kind == "b":
            return Cell("TRUE" if stored.strip() in {"1", "true"} else "FALSE") if stored else None
        try:
            value = float(stored)
        except ValueError:
            return _text(stored, code)
        return shown_number(value, code, since_1904=self._since_1904)

    def _comments(self, sheet: Sheet, part: str, left_out: _Hidden) -> Iterator[str]:
        try:
            for comment in descendants(self._package.root(part), "comment"):
                range_ = rectangle(attribute(comment, "ref"))
                text = "".join(map(_rich_text, children(comment, "text"))).strip()
                if range_ and text and (self._hidden or not left_out.has(range_)):
                    yield f"Comment on {sheet.reference(range_)}: {text}"
        except DamagedPart:
            self._book.warnings.append(f"the comments of the sheet {sheet.name!r} are damaged")


class _Hidden:
    """The hidden rows and columns of a sheet."""

    def __init__(self) -> None:
        self.rows: set[int] = set()
        self.columns: list[tuple[int, int]] = []
        self.summary = ""

    def add_columns(self, first: str, last: str) -> None:
        """Add columns by their numbers."""
        if (begin := integer(first)) and (end := integer(last)):
            self.columns.append((begin, end))

    def has(self, cell: Range) -> bool:
        """Say whether a cell is hidden."""
        return cell.top in self.rows or any(first <= cell.left <= last for first, last in self.columns)

    def remove_from(self, sheet: Sheet) -> None:
        """Remove hidden rows and columns; count those with content."""
        rows = [number for number in self.rows if sheet.rows.pop(number, None)]
        sheet.left_out.update(rows)
        columns: set[int] = set()
        for row in sheet.rows.values() if self.columns else ():
            for column in [c for c in row if any(first <= c <= last for first, last in self.columns)]:
                columns.add(column)
                del row[column]
        for number in [number for number, row in sheet.rows.items() if not row]:
            del sheet.rows[number]
        counts = [f"{len(hidden)} {words}" for hidden, words in ((rows, "rows"), (columns, "columns")) if hidden]
        self.summary = " and ".join(counts)


def shown_number(value: float, code: str, *, since_1904: bool) -> Cell | None:
    """Return the cell of a number; None where its format shows nothing."""
    text = number_formats.shown(value, code, since_1904=since_1904)
    return Cell(text, value, number_formats.is_date(code)) if text else None


def _text(text: str, code: str) -> Cell | None:
    text = number_formats.shown_text(text, code).strip()[:MAX_CELL_CHARACTERS]
    return Cell(text) if text else None


def _rich_text(element: Element) -> str:
    """Return the text of runs, without phonetic guides."""
    parts: list[str] = []
    for item in element:
        if tag(item) == "t":
            parts.append(item.text or "")
        elif tag(item) == "r":
            parts += [t.text or "" for t in children(item, "t")]
    return "".join(parts)


def _is_hidden(element: Element) -> bool:
    return attribute(element, "hidden") in {"1", "true"}
