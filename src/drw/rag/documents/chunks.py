"""Cuts the pages of a document into chunks: whole lines, about as many tokens each, never over a page's end.

A row of a table is a line, so it stays whole. A chunk begins with the last lines of the one before
where no heading parts them, and carries a context: what the document is, the headings above it, and the
header of the table that it begins in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from drw.rag.documents import lines, tokens

TOKENS = 190
"""A chunk; with its context it stays under the 256 tokens that the embedding model reads."""
OVERLAP_LINES = 2
TAIL_TOKENS = 12
"""So little left on a page, most often its number and footer, is not worth a chunk of its own."""
CONTEXT_TOKENS = 52
HEADING_TOKENS = 16
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
HEADER_LINES = 10
ROWS_ABOVE = 60


@dataclass(frozen=True, slots=True)
class Chunk:
    """One passage; `text` is `page_text[start:end]`."""

    page: int
    start: int
    end: int
    text: str
    context: str


@dataclass(frozen=True, slots=True)
class _Line:
    start: int
    end: int
    text: str
    tokens: int


class Chunker:
    """Takes the pages of one document in their order: a heading holds until the next one, over pages too.

    One that is told by its look alone holds to the end of the next page, since it may be none.
    """

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._headings: dict[int, tuple[int, str]] = {}

    def page(self, number: int, text: str) -> Iterator[Chunk]:
        """Yield the chunks of the next page."""
        self._headings = {n: (at, w) for n, (at, w) in self._headings.items() if n < lines.BY_LOOK or at >= number - 1}
        page = list(_lines(text))
        begin = 0
        while begin < len(page):
            end = _end(page, begin)
            context = self._context(page, begin)
            first, last = page[begin], page[end - 1]
            yield Chunk(number, first.start, last.end, text[first.start : last.end], context)
            self._see(number, page[begin:end])
            begin = _next(page, begin, end)

    def _context(self, page: list[_Line], begin: int) -> str:
        top = lines.heading(page[begin].text)
        above = [words for level, (_, words) in sorted(self._headings.items()) if not top or level < top[0]]
        above = [_cut(words, HEADING_TOKENS) for words in above if words.lower() not in self._subject.lower()]
        parts = [self._subject, *above, _table_header(page, begin)]
        return _cut("\n".join(dict.fromkeys(part for part in parts if part)), CONTEXT_TOKENS)

    def _see(self, number: int, chunk: list[_Line]) -> None:
        for line in chunk:
            if found := lines.heading(line.text):
                level, words = found
                higher = {n: seen for n, seen in self._headings.items() if n < level}
                self._headings = higher | {level: (number, words)}


def _end(page: list[_Line], begin: int) -> int:
    """Return where the chunk that begins here ends: at a heading where it is half full, else where it is full."""
    total = 0
    for number in range(begin, len(page)):
        total += page[number].tokens
        if number > begin and total > TOKENS:
            rest = _sum(page[number:])
            return len(page) if rest <= TAIL_TOKENS else _before_table(page, begin, number)
        if total - page[number].tokens > TOKENS // 2 and lines.heading(page[number].text):
            return number
    return len(page)


def _before_table(page: list[_Line], begin: int, end: int) -> int:
    """Return where the table begins that a cut here would part, if it fits into the next chunk; else here."""
    if not lines.is_row(page[end].text):
        return end
    top = end
    while top > begin and (lines.is_row(page[top - 1].text) or lines.is_header(page[top - 1].text)):
        top -= 1
    if top > begin and _is_label(page[top - 1]):
        top -= 1
    bottom = next((n for n in range(end, len(page)) if not lines.is_row(page[n].text)), len(page))
    is_worth_it = _sum(page[begin:top]) >= TOKENS // 3 and _sum(page[top:bottom]) <= TOKENS
    return top if is_worth_it else end


def _next(page: list[_Line], begin: int, end: int) -> int:
    """Return where the next chunk begins: some lines back, where those are short and it is the same section."""
    if end == len(page) or lines.heading(page[end].text):
        return end
    back = max(end - OVERLAP_LINES, begin + 1)
    if lines.is_row(page[end].text) and not lines.is_row(page[end - 1].text) and not _is_label(page[end - 1]):
        return end  # a table of its own
    return back if _sum(page[back:end]) <= TOKENS // 4 else end


def _is_label(line: _Line) -> bool:
    return line.text.rstrip().endswith(":")


def _sum(page: list[_Line]) -> int:
    return sum(line.tokens for line in page)


def _table_header(page: list[_Line], begin: int) -> str:
    """Return the column heads of the table in which a chunk begins; empty where it begins in none."""
    if not lines.is_row(page[begin].text):
        return ""
    above = [line.text.strip() for line in page[max(0, begin - ROWS_ABOVE) : begin]]
    for number in range(len(above) - 1, -1, -1):
        if lines.is_rule(above[number]) and number:
            return above[number - 1]
        if lines.is_header(above[number]):
            return " ".join(_run_of_headers(above[: number + 1]))
        if not lines.is_row(above[number]) and len(above[number]) > lines.MAX_HEADING_CHARACTERS:
            return ""  # running text: the table begins below it
    return ""


def _run_of_headers(above: list[str]) -> list[str]:
    run: list[str] = []
    for line in reversed(above[-HEADER_LINES:]):
        if not lines.is_header(line):
            break
        run.insert(0, line)
    return run


def _lines(text: str) -> Iterator[_Line]:
    at = 0
    for raw in text.split("\n"):
        if raw.strip():
            start = at + len(raw) - len(raw.lstrip())
            yield from _pieces(text, start, at + len(raw.rstrip()))
        at += len(raw) + 1


def _pieces(text: str, start: int, end: int) -> Iterator[_Line]:
    """Yield a line whole, or in sentences where it is longer than a chunk, or in words where a sentence is."""
    end = start + len(text[start:end].rstrip())
    count = tokens.estimate(text[start:end])
    if count <= TOKENS:
        yield _Line(start, end, text[start:end], count)
        return
    for pattern in (SENTENCE_END, re.compile(r"\s+")):
        cuts = [start + match.end() for match in pattern.finditer(text[start:end])]
        if cuts:
            for left, right in _grouped(text, [start, *cuts, end]):
                yield from _pieces(text, left, right)
            return
    step = TOKENS * 3  # one word, longer than a chunk
    for left in range(start, end, step):
        piece = text[left : min(left + step, end)]
        yield _Line(left, left + len(piece), piece, min(tokens.estimate(piece), TOKENS))


def _grouped(text: str, cuts: list[int]) -> Iterator[tuple[int, int]]:
    """Yield spans between cuts, as many together as stay short."""
    left, total = cuts[0], 0
    for begin, end in zip(cuts, cuts[1:], strict=False):
        count = tokens.estimate(text[begin:end])
        if total and total + count > TOKENS // 3:
            yield left, begin
            left, total = begin, 0
        total += count
    yield left, cuts[-1]


def _cut(text: str, most: int) -> str:
    while tokens.estimate(text) > most:
        text = text[: int(len(text) * 0.9)].rpartition(" ")[0]
    return text
