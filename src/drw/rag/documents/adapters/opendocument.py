"""Parser of ODS spreadsheets (OpenDocument 1.3, part 3); each cell stores its displayed text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from xml.etree.ElementTree import Element

from drw.rag.documents.parsing import archive_limits
from drw.rag.documents.parsing.ooxml.elements import attribute, descendants, integer, tag
from drw.rag.documents.parsing.ooxml.package import DamagedPart, Package
from drw.rag.documents.parsing.sheets import tables
from drw.rag.documents.parsing.sheets.grid import MAX_CELLS, Cell, Range, Sheet
from drw.rag.documents.ports import ParseFailed, Parser, ParserLimits

MAX_REPEATED = 1000
"""Maximum repetitions of a row or cell with content; more are filler."""
NUMBER_TYPES = frozenset({"float", "percentage", "currency"})
DATE_TYPES = frozenset({"date", "time"})
HIDDEN_VISIBILITIES = frozenset({"collapse", "filter"})


class OpenDocument(Parser):
    """Each sheet is one page."""

    extensions = frozenset({"ods"})

    def check(self, file: Path, extension: str, limits: ParserLimits) -> None:
        archive_limits.check(file, extension, limits.unpacked_bytes)
        with Package(file) as package:
            manifest = package.read("META-INF/manifest.xml") if "META-INF/manifest.xml" in package else b""
        if b"encryption-data" in manifest:
            raise ParseFailed("this file is encrypted: save it without its password")

    def pages(self, file: Path, extension: str, limits: ParserLimits) -> Iterator[str]:
        self.check(file, extension, limits)
        with Package(file) as package:
            try:
                root, is_complete = package.recover("content.xml")
            except DamagedPart as error:
                raise ParseFailed("this workbook is damaged: its content cannot be read") from error
        if not is_complete:
            self.warnings.append("the workbook is damaged: what could be read of it was kept")
        yield from tables.pages(self._sheets(root, limits))

    def _sheets(self, root: Element, limits: ParserLimits) -> Iterator[Sheet]:
        hidden = {
            attribute(style, "name")
            for style in descendants(root, "style")
            if any(attribute(p, "display") == "false" for p in descendants(style, "table-properties"))
        }
        self._cells = 0
        for table in descendants(root, "table"):
            name = attribute(table, "name")
            if attribute(table, "style-name") in hidden and not limits.hidden:
                self.warnings.append(f"the sheet {name!r} is hidden and was not read")
                continue
            sheet = Sheet(name)
            skipped = self._rows(sheet, table, limits)
            if skipped:
                self.warnings.append(f"{skipped} of the sheet {name!r} are hidden and were not read")
            yield sheet

    def _rows(self, sheet: Sheet, table: Element, limits: ParserLimits) -> str:
        """Read the rows of a sheet; return the number of skipped hidden rows and columns with content, as text."""
        hidden = [] if limits.hidden else list(_hidden_columns(table))
        number = 1
        rows = 0
        columns = set[int]()
        for row in descendants(table, "table-row"):
            repeated = _count(row, "number-rows-repeated")
            cells = dict(islice(self._row(sheet, row, number), MAX_CELLS + 1))
            if cells and attribute(row, "visibility") in HIDDEN_VISIBILITIES and not limits.hidden:
                sheet.hidden_rows.update(range(number, number + min(repeated, MAX_REPEATED)))
                rows, cells = rows + 1, {}
            for column in [c for c in cells if any(first <= c <= last for first, last in hidden)]:
                columns.add(column)
                del cells[column]
            for position in range(number, number + min(repeated, MAX_REPEATED)) if cells else ():
                self._cells += len(cells)
                if self._cells > MAX_CELLS:
                    raise ParseFailed(f"this workbook has more than {MAX_CELLS:,} cells with content")
                sheet.rows[position] = dict(cells)
            number += repeated
        counts = ((rows, "rows"), (len(columns), "columns"))
        return " and ".join(f"{count} {unit}" for count, unit in counts if count)

    def _row(self, sheet: Sheet, row: Element, number: int) -> Iterator[tuple[int, Cell]]:
        column = 1
        for cell in row:
            if tag(cell) not in {"table-cell", "covered-table-cell"}:
                continue
            repeated = _count(cell, "number-columns-repeated")
            text = "\n".join(_text(p) for p in cell if tag(p) == "p").strip()
            if text and tag(cell) == "table-cell":
                value_type = attribute(cell, "value-type")
                value = 0.0 if value_type in NUMBER_TYPES or value_type in DATE_TYPES else None
                for position in range(column, column + min(repeated, MAX_REPEATED)):
                    yield position, Cell(text, value, value_type in DATE_TYPES)
            rows = _count(cell, "number-rows-spanned")
            columns = _count(cell, "number-columns-spanned")
            if rows * columns > 1:
                sheet.merged.append(Range(number, column, number + rows - 1, column + columns - 1))
            column += repeated


def _hidden_columns(table: Element) -> Iterator[tuple[int, int]]:
    """Yield the first and the last column of each range of hidden columns."""
    column = 1
    for item in descendants(table, "table-column"):
        repeated = _count(item, "number-columns-repeated")
        if attribute(item, "visibility") in HIDDEN_VISIBILITIES:
            yield column, column + repeated - 1
        column += repeated


def _text(element: Element) -> str:
    parts = [element.text or ""]
    for item in element:
        name = tag(item)
        if name == "s":
            parts.append(" " * min(_count(item, "c"), 80))
        elif name in {"tab", "line-break"}:
            parts.append(" ")
        elif name not in {"annotation", "note"}:
            parts.append(_text(item))
        parts.append(item.tail or "")
    return "".join(parts)


def _count(element: Element, name: str) -> int:
    return max(integer(attribute(element, name)), 1)
