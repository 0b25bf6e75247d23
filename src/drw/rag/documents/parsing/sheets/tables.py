"""Sheets as pages of Markdown: blocks of rows, each with its cell range, title and column headers.

A block is about as long as a chunk, so that the figures of each chunk have their headers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from drw.rag.documents.chunking import token_estimate
from drw.rag.documents.parsing import markdown
from drw.rag.documents.parsing.pages import MAX_PAGE_CHARACTERS
from drw.rag.documents.parsing.sheets.grid import Cell, Range, Rows, Sheet, column_letters

BLOCK_TOKENS = 170
MAX_ROW_TOKENS = 110
"""Of the header and one row: wider tables are split by columns."""
MAX_HEADER_ROWS = 3
MAX_TITLE_CHARACTERS = 160
YEARS = range(1900, 2101)


@dataclass(slots=True)
class _Table:
    """A table: consecutive rows that are not blank, with their titles and column headers."""

    rows: Rows
    titles: list[str] = field(default_factory=list)
    headers: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    """The header text of each column."""


def pages(sheets: Iterable[Sheet]) -> Iterator[str]:
    """Yield the pages of a workbook: one for each sheet, more for a long sheet."""
    for sheet in sheets:
        page = ""
        for block in _blocks(sheet):
            if page and len(page) + len(block) > MAX_PAGE_CHARACTERS:
                yield page
                page = ""
            heading = f"# {sheet.name}\n\n" if sheet.name else ""
            page = f"{page}\n\n{block}" if page else f"{heading}{block}"
        if page:
            yield page


def _blocks(sheet: Sheet) -> Iterator[str]:
    _fill_down(sheet)
    pending: list[str] = []
    previous: _Table | None = None
    for rows in _row_groups(sheet):
        table = _parse_table(sheet, rows, pending, previous)
        pending = []
        if table.columns:
            yield from _table_blocks(sheet, table)
            previous = table
        elif sum(map(len, table.titles)) > MAX_TITLE_CHARACTERS:
            yield "\n\n".join(table.titles)
        else:  # perhaps the title of the table below it
            pending = table.titles
    if pending:
        yield "\n\n".join(pending)
    if sheet.extra_texts:
        yield "\n\n".join(sheet.extra_texts)


def _row_groups(sheet: Sheet) -> Iterator[Rows]:
    group: Rows = {}
    following = 0
    for number in sorted(sheet.rows):
        while following < number and following in sheet.hidden_rows:
            following += 1
        if group and number != following:
            yield group
            group = {}
        group[number] = sheet.rows[number]
        following = number + 1
    if group:
        yield group


def _parse_table(sheet: Sheet, rows: Rows, pending: list[str], previous: _Table | None) -> _Table:
    """Split consecutive rows into titles, column headers and body."""
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
    table.headers = _header_rows(sheet, table.rows, columns)
    if table.headers:
        table.names = {c: _column_header(sheet, rows, table.headers, c) for c in columns}
    elif previous and previous.names and set(columns) <= set(previous.columns):
        table.names = previous.names  # a further section of the table above
        table.columns = previous.columns
        table.titles = table.titles or previous.titles
    return table


def _header_rows(sheet: Sheet, rows: Rows, columns: list[int]) -> list[int]:
    headers: list[int] = []
    for number in sorted(rows)[: min(MAX_HEADER_ROWS, len(rows) - 1)]:
        row = rows[number]
        if not all(_can_be_header(cell) for cell in row.values()) or (len(row) < 2 <= len(columns) and not headers):
            break
        # Below a cell over several columns, the next row has more specific headers.
        if headers and not any(m.top <= headers[-1] <= m.bottom and m.left < m.right for m in sheet.merged):
            break
        headers.append(number)
    return headers


def _can_be_header(cell: Cell) -> bool:
    return cell.value is None or cell.is_date or (cell.text.isdecimal() and int(cell.text[:5]) in YEARS)


def _column_header(sheet: Sheet, rows: Rows, headers: list[int], column: int) -> str:
    texts: list[str] = []
    for number in headers:
        cell = rows[number].get(column) or _merged_cell(sheet, number, column)
        if cell and cell.text not in texts:
            texts.append(cell.text)
    return " ".join(texts)


def _merged_cell(sheet: Sheet, row: int, column: int) -> Cell | None:
    for m in sheet.merged:
        if m.top <= row <= m.bottom and m.left <= column <= m.right:
            return sheet.rows.get(m.top, {}).get(m.left)
    return None


def _fill_down(sheet: Sheet) -> None:
    """Repeat a cell that spans several rows in each row that has other cells."""
    remaining = sum(map(len, sheet.rows.values())) + 1000
    for m in sheet.merged:
        cell = sheet.rows.get(m.top, {}).get(m.left)
        if cell is None or m.left != m.right or m.bottom == m.top:
            continue
        for number in range(m.top + 1, min(m.bottom, m.top + remaining) + 1):
            if number in sheet.rows:
                sheet.rows[number].setdefault(m.left, cell)
                remaining -= 1


def _table_blocks(sheet: Sheet, table: _Table) -> Iterator[str]:
    title = " · ".join(" ".join(line.split()) for line in table.titles)
    if len(title) > MAX_TITLE_CHARACTERS:
        yield "\n\n".join(table.titles)
        title = ""
    body = [number for number in sorted(table.rows) if number not in table.headers]
    for columns in _column_groups(table, body):
        names = [table.names.get(c, "") if table.names else column_letters(c) for c in columns]
        header = f"{markdown.table_row(map(markdown.escape_cell, names))}\n{markdown.delimiter_row(len(columns))}"
        yield from _row_blocks(sheet, table, columns, body, title, header)


def _row_blocks(
    sheet: Sheet, table: _Table, columns: list[int], body: list[int], title: str, header: str
) -> Iterator[str]:
    lines: list[str] = []
    header_tokens = token_estimate.estimate(f"{title}{header}") + 12
    total = header_tokens
    first_row = (table.headers or body)[0]
    section = ""
    label = ""
    for index, number in enumerate(body):
        row = table.rows[number]
        line = markdown.table_row(markdown.escape_cell(row[c].text) if c in row else "" for c in columns)
        count = token_estimate.estimate(line)
        if lines and total + count > BLOCK_TOKENS:
            yield _block(sheet, table, columns, first_row, body[index - 1], [title, label], header, lines)
            lines = []
            total = header_tokens + token_estimate.estimate(section)
            first_row = number
            label = section
        if len(row) == 1 and columns[0] in row and row[columns[0]].value is None and len(columns) > 1:
            section = row[columns[0]].text[:MAX_TITLE_CHARACTERS]
        lines.append(line)
        total += count
    if lines:
        yield _block(sheet, table, columns, first_row, body[-1], [title, label], header, lines)


def _block(
    sheet: Sheet,
    table: _Table,
    columns: list[int],
    top: int,
    bottom: int,
    labels: list[str],
    header: str,
    lines: list[str],
) -> str:
    is_first = columns[:2] == table.columns[:2]
    left = columns[0] if is_first else columns[1]  # the repeated first column is elsewhere
    reference = sheet.reference(Range(top, left, bottom, columns[-1]))
    heading = " · ".join(part for part in (reference, *labels) if part)
    return "\n".join([f"## {heading}\n", header, *lines]) if heading else "\n".join([header, *lines])


def _column_groups(table: _Table, body: list[int]) -> Iterator[list[int]]:
    """Yield groups of columns; each group of a wide table has the first column, which labels the rows."""
    widths = {c: _column_tokens(table, body, c) for c in table.columns}
    if sum(widths.values()) <= MAX_ROW_TOKENS:
        yield table.columns
        return
    first, *others = table.columns
    group = [first]
    for column in others:
        if len(group) > 1 and sum(widths[c] for c in group) + widths[column] > MAX_ROW_TOKENS:
            yield group
            group = [first]
        group.append(column)
    yield group


def _column_tokens(table: _Table, body: list[int], column: int) -> int:
    """Estimate the tokens of the header and one cell of a column."""
    sample = [table.rows[n][column].text[:400] for n in body[:20] if column in table.rows[n]]
    longest = max((token_estimate.estimate(text) for text in sample), default=0)
    return 2 + longest + token_estimate.estimate(table.names.get(column, "")[:400])
