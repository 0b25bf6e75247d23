"""Parser of binary workbooks (XLS, XLSB) on Calamine, which returns values without their number formats."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import python_calamine

from drw.rag.documents.parsing import archive_limits
from drw.rag.documents.parsing.ooxml import encryption
from drw.rag.documents.parsing.sheets import number_formats, tables
from drw.rag.documents.parsing.sheets.grid import MAX_CELLS, Cell, Range, Sheet
from drw.rag.documents.ports import ParseFailed, Parser, ParserLimits


class Calamine(Parser):
    """Each sheet is one page."""

    extensions = frozenset({"xls", "xlsb"})

    def check(self, file: Path, extension: str, limits: ParserLimits) -> None:
        encryption.check(file, is_legacy=True)
        if extension == "xlsb":
            archive_limits.check(file, extension, limits.unpacked_bytes)

    def pages(self, file: Path, extension: str, limits: ParserLimits) -> Iterator[str]:
        self.check(file, extension, limits)
        try:
            workbook = python_calamine.CalamineWorkbook.from_path(file)
        except (python_calamine.CalamineError, OSError, ValueError) as error:
            raise ParseFailed(f"this {extension.upper()} file cannot be read: {error}") from error
        yield from tables.pages(self._sheets(workbook, limits))

    def decrypt(self, file: Path, extension: str, password: str) -> bytes:
        return encryption.decrypt(file, password)

    def _sheets(self, workbook: Any, limits: ParserLimits) -> Iterator[Sheet]:
        cells = 0
        for meta in workbook.sheets_metadata:
            if meta.visible != python_calamine.SheetVisibleEnum.Visible and not limits.hidden:
                self.warnings.append(f"the sheet {meta.name!r} is hidden and was not read")
                continue
            try:
                sheet = _sheet(workbook.get_sheet_by_name(meta.name))
            except (python_calamine.CalamineError, OSError, ValueError) as error:
                self.warnings.append(f"the sheet {meta.name!r} could not be read: {error}")
                continue
            if (cells := cells + sum(map(len, sheet.rows.values()))) > MAX_CELLS:
                raise ParseFailed(f"this workbook has more than {MAX_CELLS:,} cells with content")
            yield sheet


def _sheet(source: Any) -> Sheet:
    sheet = Sheet(source.name)
    top, left = source.start or (0, 0)
    if source.total_width * source.total_height > 16 * MAX_CELLS:
        raise ParseFailed(f"the sheet {source.name!r} has {source.total_height:,} rows of {source.total_width:,} cells")
    for number, row in enumerate(source.iter_rows(), top + 1):
        cells = {column: cell for column, item in enumerate(row, left + 1) if (cell := _cell(item))}
        if cells:
            sheet.rows[number] = cells
    sheet.merged = [
        Range(begin[0] + 1, begin[1] + 1, end[0] + 1, end[1] + 1) for begin, end in source.merged_cell_ranges or ()
    ]
    return sheet


def _cell(item: Any) -> Cell | None:
    if isinstance(item, bool):
        return Cell(str(item).upper())
    if isinstance(item, int | float):
        return Cell(number_formats.format_general(float(item)), float(item))
    if isinstance(item, datetime):
        text = item.isoformat(" ", "minutes" if not item.second else "seconds").removesuffix(" 00:00")
        return Cell(text, 0.0, is_date=True)
    if isinstance(item, date | time | timedelta):
        return Cell(str(item), 0.0, is_date=True)
    text = str(item).strip()
    return Cell(text) if text else None
