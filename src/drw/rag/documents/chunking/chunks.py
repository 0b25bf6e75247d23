"""Chunking: cuts pages into chunks of whole lines with a similar number of tokens, never across a page end.

A table row is one line, so it stays whole. Chunks overlap by some lines unless a heading separates them. Each chunk has
a context: the subject of the document, the headings above, and the header of the table that the chunk begins in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from drw.rag.documents.chunking import line_classifier, token_estimate

TOKENS = 190
"""Of a chunk; with its context it stays within the 256 tokens of the embedding model."""
OVERLAP_LINES = 2
TAIL_TOKENS = 12
"""A shorter rest of a page, usually its number and footer, is added to the last chunk."""
CONTEXT_TOKENS = 52
HEADING_TOKENS = 16
WORD = re.compile(r"[^\W_]")
SPACE = re.compile(r"\s+")
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


class _Page:
    """The lines of a page, classified once."""

    def __init__(self, text: str) -> None:
        self.lines = list(_lines(text))
        self._totals = [0, *accumulate(line.tokens for line in self.lines)]
        self.headings = [line_classifier.heading(line.text) for line in self.lines]
        self.rows = [line_classifier.is_row(line.text) for line in self.lines]
        self._table_ends = self._ends_of_tables()

    def __len__(self) -> int:
        return len(self.lines)

    def tokens(self, begin: int, end: int) -> int:
        """Return the tokens of some lines together."""
        return self._totals[end] - self._totals[begin]

    def end_of_table(self, begin: int) -> int:
        """Return the first line from here on that is not a row of a table."""
        return self._table_ends[begin]

    def _ends_of_tables(self) -> list[int]:
        ends = [len(self)] * len(self)
        for number in reversed(range(len(self))):
            if not self.rows[number]:
                ends[number] = number
            elif number + 1 < len(self):
                ends[number] = ends[number + 1]
        return ends


class Chunker:
    """Cuts the pages of one document in order. A heading applies until the next one, across pages.

    A heading that is recognised by its look alone applies until the end of the next page, since it may be none.
    """

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._headings: dict[int, tuple[int, str]] = {}

    def page(self, number: int, text: str) -> Iterator[Chunk]:
        """Yield the chunks of the next page; those without a letter or digit are left out."""
        self._headings = {
            n: (at, w) for n, (at, w) in self._headings.items() if n < line_classifier.BY_LOOK or at >= number - 1
        }
        page = _Page(text)
        begin = 0
        while begin < len(page):
            end = _end(page, begin)
            start = page.lines[begin].start
            stop = page.lines[end - 1].end
            if WORD.search(text, start, stop):
                yield Chunk(number, start, stop, text[start:stop], self._context(page, begin))
            self._see(number, page, begin, end)
            begin = _next(page, begin, end)

    def _context(self, page: _Page, begin: int) -> str:
        top = page.headings[begin]
        above = [words for level, (_, words) in sorted(self._headings.items()) if not top or level < top[0]]
        above = [_cut(words, HEADING_TOKENS) for words in above if words.lower() not in self._subject.lower()]
        parts = [self._subject, *above, _table_header(page, begin)]
        return _cut("\n".join(dict.fromkeys(part for part in parts if part)), CONTEXT_TOKENS)

    def _see(self, number: int, page: _Page, begin: int, end: int) -> None:
        for heading in page.headings[begin:end]:
            if heading:
                level, words = heading
                higher = {n: seen for n, seen in self._headings.items() if n < level}
                self._headings = higher | {level: (number, words)}


def _end(page: _Page, begin: int) -> int:
    """Return the end of the chunk that begins here: at a heading once it is half full, otherwise when it is full."""
    for number in range(begin, len(page)):
        if number > begin and page.tokens(begin, number + 1) > TOKENS:
            is_tail = page.tokens(number, len(page)) <= TAIL_TOKENS
            return len(page) if is_tail else _before_table(page, begin, number)
        if page.tokens(begin, number) > TOKENS // 2 and page.headings[number]:
            return number
    return len(page)


def _before_table(page: _Page, begin: int, end: int) -> int:
    """Return the start of the table that a cut here would split, if it fits into the next chunk; otherwise `end`."""
    if not page.rows[end]:
        return end
    top = end
    while top > begin and (page.rows[top - 1] or line_classifier.is_header(page.lines[top - 1].text)):
        top -= 1
    if top > begin and _is_label(page.lines[top - 1]):
        top -= 1
    is_worth_it = page.tokens(begin, top) >= TOKENS // 3 and page.tokens(top, page.end_of_table(end)) <= TOKENS
    return top if is_worth_it else end


def _next(page: _Page, begin: int, end: int) -> int:
    """Return the start of the next chunk: some lines back within a section, if those lines are short."""
    if end == len(page) or page.headings[end]:
        return end
    back = max(end - OVERLAP_LINES, begin + 1)
    if page.rows[end] and not page.rows[end - 1] and not _is_label(page.lines[end - 1]):
        return end  # a table of its own
    return back if page.tokens(back, end) <= TOKENS // 4 else end


def _is_label(line: _Line) -> bool:
    return line.text.rstrip().endswith(":")


def _table_header(page: _Page, begin: int) -> str:
    """Return the column headers of the table in which a chunk begins; empty if it begins in none."""
    if not page.rows[begin]:
        return ""
    above = [line.text.strip() for line in page.lines[max(0, begin - ROWS_ABOVE) : begin]]
    for number in range(len(above) - 1, -1, -1):
        if line_classifier.is_rule(above[number]) and number:
            return above[number - 1]
        if line_classifier.is_header(above[number]):
            return " ".join(_run_of_headers(above[: number + 1]))
        if not line_classifier.is_row(above[number]) and len(above[number]) > line_classifier.MAX_HEADING_CHARACTERS:
            return ""  # running text: the table begins below it
    return ""


def _run_of_headers(above: list[str]) -> list[str]:
    run: list[str] = []
    for line in reversed(above[-HEADER_LINES:]):
        if not line_classifier.is_header(line):
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
    """Yield a line; split it into sentences if it exceeds a chunk, and a sentence into words."""
    end = start + len(text[start:end].rstrip())
    count = token_estimate.estimate(text[start:end])
    if count <= TOKENS:
        yield _Line(start, end, text[start:end], count)
        return
    if not WORD.search(text, start, end):
        return
    for pattern in (SENTENCE_END, SPACE):
        cuts = [start + match.end() for match in pattern.finditer(text[start:end])]
        if cuts:
            for left, right in _grouped(text, [start, *cuts, end]):
                yield from _pieces(text, left, right)
            return
    for left, right in token_estimate.split(text[start:end], TOKENS):  # one word, longer than a chunk
        piece = text[start + left : start + right]
        yield _Line(start + left, start + right, piece, token_estimate.estimate(piece))


def _grouped(text: str, cuts: list[int]) -> Iterator[tuple[int, int]]:
    """Yield spans between cuts, as many together as stay short."""
    left = cuts[0]
    total = 0
    for begin, end in zip(cuts, cuts[1:], strict=False):
        count = token_estimate.estimate(text[begin:end])
        if total and total + count > TOKENS // 3:
            yield left, begin
            left = begin
            total = 0
        total += count
    yield left, cuts[-1]


def _cut(text: str, max_tokens: int) -> str:
    while token_estimate.estimate(text) > max_tokens:
        text = text[: int(len(text) * 0.9)].rpartition(" ")[0]
    return text
