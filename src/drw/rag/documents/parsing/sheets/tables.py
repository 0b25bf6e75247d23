"""Sheets as pages of Markdown: blocks of rows, each with its cell range, title and column headers.

A block is about as long as a passage, so that each passage says on its own what its figures are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from drw.rag.documents.chunking import token_estimate
from drw.rag.documents.parsing.pages import LONGEST
from drw.rag.documents.parsing.sheets.grid import Cell, Range, Rows, Sheet, letters

BLOCK_TOKENS = 170
WIDE_TOKENS = 110
"""Of the header and a row: wider tables are parted by columns."""
HEADER_ROWS = 3
TITLE_CHARACTERS = 160
YEARS = range(1900, 2101)


@dataclass(slots=True)
class _Table:
    """A run of rows without a blank one between them."""

    rows: Rows
    titles: list[str] = field(default_factory=list)
    headers: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    """The header of each column."""


def pages(sheets: Iterable[Sheet]) -> Iterator[str]:
    """Yield the pages of a workbook: one for each sheet, more for a long one."""
    for sheet in sheets:
        page = ""
        for block in _blocks(sheet):
            if page and len(page) + len(block) > LONGEST:
                yield page
                page = ""
            page = f"{page}\n\n{block}" if page else f"{_top(sheet)}{block}"
        if page:
            yield page


def _top(sheet: Sheet) -> str:
    return f"# {sheet.name}\n\n" if sheet.name else ""


def _blocks(sheet: Sheet) -> Iterator[str]:
    _fill_down(sheet)
    pending: list[str] = []
    last: _Table | None = None
    for rows in _runs(sheet):
        table = _table(sheet, rows, pending, last)
        pending = []
        if table.columns:
            yield from _tabular(sheet, table)
            last = table
        elif sum(map(len, table.titles)) > TITLE_CHARACTERS:
            yield "\n\n".join(table.titles)
        else:  # perhaps the title of the table below it
            pending = table.titles
    if pending:
        yield "\n\n".join(pending)
    if sheet.more:
        yield "\n\n".join(sheet.more)


def _runs(sheet: Sheet) -> Iterator[Rows]:
    run: Rows = {}
    following = 0
    for number in sorted(sheet.rows):
        while following < number and following in sheet.left_out:
            following += 1
        if run and number != following:
            yield run
            run = {}
        run[number] = sheet.rows[number]
        following = number + 1
    if run:
        yield run


def _table(sheet: Sheet, rows: Rows, pending: list[str], last: _Table | None) -> _Table:
    """Tell titles, column headers and body of a run of rows apart."""
    table = _Table(dict(rows), list(pending))
    for number in sorted(rows):
        if len(rows[number]) > 1 or (only := next(iter(rows[number].values()))).value is not None:
            break
        table.titles.append(only.text)
        del table.rows[number]
    if not table.rows:
        return table
    columns = sorted(set(chain.from_iterable(table.rows.values())))
    table.columns = columns
    table.headers = _headers(sheet, table.rows, columns)
    if table.headers:
        table.names = {c: _header(sheet, rows, table.headers, c) for c in columns}
    elif last and last.names and set(columns) <= set(last.columns):
        table.names = last.names  # a section of the table above
        table.columns = last.columns
        table.titles = table.titles or last.titles
    return table


def _headers(sheet: Sheet, rows: Rows, columns: list[int]) -> list[int]:
    headers: list[int] = []
    for number in sorted(rows)[: min(HEADER_ROWS, len(rows) - 1)]:
        row = rows[number]
        if not all(_may_head(cell) for cell in row.values()) or (len(row) < 2 <= len(columns) and not headers):
            break
        if headers and not _is_spanned(sheet, headers[-1]):
            break
        headers.append(number)
    return headers


def _may_head(cell: Cell) -> bool:
    return cell.value is None or cell.is_date or (cell.text.isdecimal() and int(cell.text[:5]) in YEARS)


def _is_spanned(sheet: Sheet, row: int) -> bool:
    """Say whether a header row has cells over several columns: the row below it says more of each."""
    return any(m.top <= row <= m.bottom and m.left < m.right for m in sheet.merged)


def _header(sheet: Sheet, rows: Rows, headers: list[int], column: int) -> str:
    words: list[str] = []
    for number in headers:
        cell = rows[number].get(column) or _spanning(sheet, number, column)
        if cell and cell.text not in words:
            words.append(cell.text)
    return " ".join(words)


def _spanning(sheet: Sheet, row: int, column: int) -> Cell | None:
    for m in sheet.merged:
        if m.top <= row <= m.bottom and m.left <= column <= m.right:
            return sheet.rows.get(m.top, {}).get(m.left)
    return None


def _fill_down(sheet: Sheet) -> None:
    """Repeat a cell that spans several rows in each row that has other cells."""
    left = sum(map(len, sheet.rows.values())) + 1000
    for m in sheet.merged:
        cell = sheet.rows.get(m.top, {}).get(m.left)
        if cell is None or m.left != m.right or m.bottom == m.top:
            continue
        for number in range(m.top + 1, min(m.bottom, m.top + left) + 1):
            if number in sheet.rows:
                sheet.rows[number].setdefault(m.left, cell)
                left -= 1


def _tabular(sheet: Sheet, table: _Table) -> Iterator[str]:
    title = " · ".join(" ".join(words.split()) for words in table.titles)
    if len(title) > TITLE_CHARACTERS:
        yield "\n\n".join(table.titles)
        title = ""
    body = [number for number in sorted(table.rows) if number not in table.headers]
    for columns in _groups(table, body):
        top = _row(_cell_text(table.names.get(c, "") if table.names else letters(c)) for c in columns)
        header = f"{top}\n{_row(['---'] * len(columns))}"
        yield from _parts(sheet, table, columns, body, title, header)


def _parts(sheet: Sheet, table: _Table, columns: list[int], body: list[int], title: str, header: str) -> Iterator[str]:
    lines: list[str] = []
    fixed = token_estimate.estimate(f"{title}{header}") + 12
    total = fixed
    begin = (table.headers or body)[0]
    section = ""
    label = ""
    for at, number in enumerate(body):
        row = table.rows[number]
        line = _row(_cell_text(row[c].text) if c in row else "" for c in columns)
        count = token_estimate.estimate(line)
        if lines and total + count > BLOCK_TOKENS:
            yield _block(sheet, table, columns, begin, body[at - 1], [title, label], header, lines)
            lines = []
            total = fixed + token_estimate.estimate(section)
            begin = number
            label = section
        if len(row) == 1 and columns[0] in row and row[columns[0]].value is None and len(columns) > 1:
            section = row[columns[0]].text[:TITLE_CHARACTERS]
        lines.append(line)
        total += count
    if lines:
        yield _block(sheet, table, columns, begin, body[-1], [title, label], header, lines)


def _block(
    sheet: Sheet,
    table: _Table,
    columns: list[int],
    top: int,
    bottom: int,
    words: list[str],
    header: str,
    lines: list[str],
) -> str:
    is_first = columns[:2] == table.columns[:2]
    left = columns[0] if is_first else columns[1]  # the column of names, repeated, is elsewhere
    place = sheet.reference(Range(top, left, bottom, columns[-1]))
    heading = " · ".join(part for part in (place, *words) if part)
    return "\n".join([f"## {heading}\n", header, *lines]) if heading else "\n".join([header, *lines])


def _groups(table: _Table, body: list[int]) -> Iterator[list[int]]:
    """Yield the columns of a table; of a wide one some at a time, each time with the first, which names the rows."""
    widths = {c: _width(table, body, c) for c in table.columns}
    if sum(widths.values()) <= WIDE_TOKENS:
        yield table.columns
        return
    first, *rest = table.columns
    group = [first]
    for column in rest:
        if len(group) > 1 and sum(widths[c] for c in group) + widths[column] > WIDE_TOKENS:
            yield group
            group = [first]
        group.append(column)
    yield group


def _width(table: _Table, body: list[int], column: int) -> int:
    """Return about how many tokens the header and one row take in a column."""
    sample = [table.rows[n][column].text[:400] for n in body[:20] if column in table.rows[n]]
    longest = max((token_estimate.estimate(text) for text in sample), default=0)
    return 2 + longest + token_estimate.estimate(table.names.get(column, "")[:400])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell_text(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
