"""Reader of XLSX workbooks: visible cells as displayed, from their stored values and number formats."""

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
from drw.rag.documents.parsing.sheets.grid import MAX_CELLS, Cell, Range, Sheet, parse_cell, parse_range
from drw.rag.documents.ports import ParseFailed

MAX_MERGED = 100_000
MAX_CELL_CHARACTERS = 32_767
"""Excel's limit of the text of one cell."""


@dataclass(slots=True)
class Workbook:
    """The sheets of a workbook, with warnings."""

    sheets: list[Sheet] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    formulas: list[Formula] = field(default_factory=list)
    """The formulas without a stored value."""


class _Styles:
    """The number formats of cell styles."""

    def __init__(self, package: Package, name: str) -> None:
        self._codes: list[str] = []
        try:
            root = package.root(name)
        except DamagedPart:  # styles are optional
            return
        custom_codes = {attribute(e, "numFmtId"): attribute(e, "formatCode") for e in descendants(root, "numFmt")}
        for style in children(child(root, "cellXfs"), "xf"):
            id_ = attribute(style, "numFmtId") or "0"
            self._codes.append(custom_codes.get(id_, number_formats.BUILT_IN.get(integer(id_, -1), "General")))

    def code(self, style: str) -> str:
        """Return the format code of a style."""
        number = integer(style)
        return self._codes[number] if number < len(self._codes) else "General"


class WorkbookReader:
    """Reads one workbook, and collects warnings about sheets and cells that were not read."""

    def __init__(self, package: Package, *, hidden: bool) -> None:
        self._package = package
        self._hidden = hidden
        self._workbook = Workbook()
        self._cells = 0
        self._hidden_cells: list[tuple[Sheet, _HiddenCells]] = []
        self._main = package.main_part("xl/workbook.xml")
        try:
            self._root = package.root(self._main)
        except DamagedPart as error:
            raise ParseFailed("this workbook is damaged: its list of sheets cannot be read") from error
        self._relations = package.relations(self._main)
        self._strings = list(self._shared_strings())
        self._styles = _Styles(package, self._part_name("styles"))
        properties = child(self._root, "workbookPr")
        self._since_1904 = properties is not None and attribute(properties, "date1904") in {"1", "true"}

    def read(self) -> Workbook:
        """Return the visible sheets in order.

        Raises:
            ParseFailed: the workbook has too many cells.
        """
        workbook = self._workbook
        hidden = []
        for entry in descendants(child(self._root, "sheets"), "sheet"):
            sheet = Sheet(attribute(entry, "name"))
            relation = self._relations.get(relation_id(entry))
            if relation is None or relation.kind not in {"worksheet", "chartsheet", "dialogsheet"}:
                continue
            if attribute(entry, "state") in {"hidden", "veryHidden"} and not self._hidden:
                workbook.warnings.append(f"the sheet {sheet.name!r} is hidden and was not read")
                hidden.append((sheet, relation.target))
                continue
            workbook.sheets.append(sheet)
            self._read_sheet(sheet, relation.target)
        if workbook.formulas:  # formulas may refer to hidden cells
            for sheet, part in hidden:
                with suppress(DamagedPart):
                    self._rows(sheet, part, _HiddenCells())
            workbook.warnings += formulas.compute(
                [*workbook.sheets, *(sheet for sheet, _ in hidden)], workbook.formulas
            )
        for sheet, hidden_cells in self._hidden_cells:
            hidden_cells.remove_from(sheet)
            if hidden_cells.summary:
                workbook.warnings.append(
                    f"{hidden_cells.summary} of the sheet {sheet.name!r} are hidden and were not read"
                )
        return workbook

    def _part_name(self, kind: str) -> str:
        target = next((r.target for r in self._relations.values() if r.kind == kind), "")
        return target or posixpath.join(posixpath.dirname(self._main), f"{kind}.xml")

    def _shared_strings(self) -> Iterator[str]:
        name = self._part_name("sharedStrings")
        if name not in self._package:
            return
        try:
            for event, element in self._package.elements(name):
                if event == "end" and tag(element) == "si":
                    yield _rich_text(element)
                    element.clear()
        except DamagedPart:
            self._workbook.warnings.append("the workbook's texts are damaged: some cells could not be read")

    def _read_sheet(self, sheet: Sheet, part: str) -> None:
        hidden_cells = _HiddenCells()
        try:
            self._rows(sheet, part, hidden_cells)
        except DamagedPart:
            after = f" after row {max(sheet.rows)}" if sheet.rows else ""
            self._workbook.warnings.append(f"the sheet {sheet.name!r} is damaged{after}: what could be read was kept")
        if not self._hidden:
            self._hidden_cells.append((sheet, hidden_cells))
        for relation in self._package.relations(part).values():
            if relation.kind == "drawing":
                sheet.extra_texts += drawing.texts_of_part(self._package, relation.target)
            elif relation.kind == "comments":
                sheet.extra_texts += self._comments(sheet, relation.target, hidden_cells)

    def _rows(self, sheet: Sheet, part: str, hidden_cells: _HiddenCells) -> None:
        row = 0
        column = 0
        for event, element in self._package.elements(part):
            name = tag(element)
            if event == "start" and name == "row":
                row, column = integer(attribute(element, "r"), row + 1), 0
                if _is_hidden(element):
                    hidden_cells.rows.add(row)
            elif event == "end" and name == "c":
                cell_position = parse_cell(attribute(element, "r"))
                row, column = cell_position or (row, column + 1)
                self._read_cell(sheet, element, row, column)
                element.clear()
            elif event == "end" and name in {"row", "sheetData"}:
                element.clear()
            elif event == "end" and name == "col" and _is_hidden(element):
                hidden_cells.add_columns(attribute(element, "min"), attribute(element, "max"))
            elif event == "end" and name == "mergeCell" and (merged := parse_range(attribute(element, "ref"))):
                sheet.merged += [merged] if len(sheet.merged) < MAX_MERGED else []

    def _read_cell(self, sheet: Sheet, element: Element, row: int, column: int) -> None:
        code = self._styles.code(attribute(element, "s"))
        formula = child(element, "f")
        stored_value = child(element, "v")
        if formula is not None and formula.text and (stored_value is None or not stored_value.text):
            if attribute(element, "t") != "str":
                self._count_cell()
                self._workbook.formulas.append(Formula(sheet, row, column, formula.text, code, self._since_1904))
            return
        if cell := self._displayed(element, stored_value.text or "" if stored_value is not None else "", code):
            self._count_cell()
            sheet.rows.setdefault(row, {})[column] = cell

    def _count_cell(self) -> None:
        self._cells += 1
        if self._cells > MAX_CELLS:
            raise ParseFailed(f"this workbook has more than {MAX_CELLS:,} cells with content")

    def _displayed(self, element: Element, stored_value: str, code: str) -> Cell | None:
        cell_type = attribute(element, "t")
        if cell_type == "s":
            number = integer(stored_value, -1)
            return _text_cell(self._strings[number] if 0 <= number < len(self._strings) else "", code)
        if cell_type == "inlineStr":
            inline = child(element, "is")
            return _text_cell(_rich_text(inline) if inline is not None else "", code)
        if cell_type in {"str", "e", "d"}:
            return _text_cell(stored_value, code)
        if cell_type == "b":
            return Cell("TRUE" if stored_value.strip() in {"1", "true"} else "FALSE") if stored_value else None
        try:
            value = float(stored_value)
        except ValueError:
            return _text_cell(stored_value, code)
        return number_formats.number_cell(value, code, since_1904=self._since_1904)

    def _comments(self, sheet: Sheet, part: str, hidden_cells: _HiddenCells) -> Iterator[str]:
        try:
            for comment in descendants(self._package.root(part), "comment"):
                range_ = parse_range(attribute(comment, "ref"))
                text = "".join(map(_rich_text, children(comment, "text"))).strip()
                if range_ and text and (self._hidden or not hidden_cells.contains(range_)):
                    yield f"Comment on {sheet.reference(range_)}: {text}"
        except DamagedPart:
            self._workbook.warnings.append(f"the comments of the sheet {sheet.name!r} are damaged")


class _HiddenCells:
    """The hidden rows and columns of a sheet."""

    def __init__(self) -> None:
        self.rows: set[int] = set()
        self.columns: list[tuple[int, int]] = []
        self.summary = ""

    def add_columns(self, first: str, last: str) -> None:
        """Add a range of columns by their numbers."""
        if (first_column := integer(first)) and (last_column := integer(last)):
            self.columns.append((first_column, last_column))

    def contains(self, cell: Range) -> bool:
        """Return whether a cell is hidden."""
        return cell.top in self.rows or any(first <= cell.left <= last for first, last in self.columns)

    def remove_from(self, sheet: Sheet) -> None:
        """Remove hidden rows and columns from a sheet; describe those with content in `summary`."""
        rows = [number for number in self.rows if sheet.rows.pop(number, None)]
        sheet.hidden_rows.update(rows)
        columns: set[int] = set()
        for row in sheet.rows.values() if self.columns else ():
            for column in [c for c in row if any(first <= c <= last for first, last in self.columns)]:
                columns.add(column)
                del row[column]
        for number in [number for number, row in sheet.rows.items() if not row]:
            del sheet.rows[number]
        counts = [f"{len(hidden)} {unit}" for hidden, unit in ((rows, "rows"), (columns, "columns")) if hidden]
        self.summary = " and ".join(counts)


def _text_cell(text: str, code: str) -> Cell | None:
    text = number_formats.format_text(text, code).strip()[:MAX_CELL_CHARACTERS]
    return Cell(text) if text else None


def _rich_text(element: Element) -> str:
    """Return the text of a rich text element, without phonetic guides."""
    parts: list[str] = []
    for item in element:
        if tag(item) == "t":
            parts.append(item.text or "")
        elif tag(item) == "r":
            parts += [t.text or "" for t in children(item, "t")]
    return "".join(parts)


def _is_hidden(element: Element) -> bool:
    return attribute(element, "hidden") in {"1", "true"}
