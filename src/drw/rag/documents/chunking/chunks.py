"""Chunking: splits pages into chunks of whole lines with a similar number of tokens. A chunk is within one page.

Table rows are not split, since a row is one line. Chunks overlap by some lines unless a heading separates them. Each
chunk has a context: the subject of the document, the headings above, and the header of the table in which it starts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, takewhile

from drw.rag.documents.chunking import line_classifier, token_estimate

MAX_CHUNK_TOKENS = 190
"""Of a chunk; with its context it fits into the 256 tokens of the embedding model."""
OVERLAP_LINES = 2
MAX_TAIL_TOKENS = 12
"""A shorter end of a page, usually its number and footer, is added to the last chunk."""
MAX_CONTEXT_TOKENS = 52
MAX_HEADING_TOKENS = 16
LETTER_OR_DIGIT = re.compile(r"[^\W_]")
SPACE = re.compile(r"\s+")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
MAX_HEADER_LINES = 10
MAX_ROWS_ABOVE = 60


@dataclass(frozen=True, slots=True)
class Chunk:
    """One passage of a page; `text` is `page_text[start:end]`."""

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
        self.rows = [line_classifier.is_table_row(line.text) for line in self.lines]
        self._table_ends = self._find_table_ends()

    def __len__(self) -> int:
        return len(self.lines)

    def tokens(self, begin: int, end: int) -> int:
        """Return the number of tokens in a range of lines."""
        return self._totals[end] - self._totals[begin]

    def end_of_table(self, begin: int) -> int:
        """Return the first line at or after `begin` that is not a table row."""
        return self._table_ends[begin]

    def _find_table_ends(self) -> list[int]:
        ends = [len(self)] * len(self)
        for number in reversed(range(len(self))):
            if not self.rows[number]:
                ends[number] = number
            elif number + 1 < len(self):
                ends[number] = ends[number + 1]
        return ends


class Chunker:
    """Splits the pages of one document, in order. A heading applies until the next one, across pages.

    A heading that is detected only by its capital letters applies until the end of the next page: it may not be one.
    """

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._headings: dict[int, tuple[int, str]] = {}

    def page(self, number: int, text: str) -> Iterator[Chunk]:
        """Yield the chunks of the next page, except those without a letter or digit."""
        self._headings = {
            level: (page_number, heading)
            for level, (page_number, heading) in self._headings.items()
            if level < line_classifier.STYLE_LEVEL or page_number >= number - 1
        }
        page = _Page(text)
        begin = 0
        while begin < len(page):
            end = _chunk_end(page, begin)
            start = page.lines[begin].start
            stop = page.lines[end - 1].end
            if LETTER_OR_DIGIT.search(text, start, stop):
                yield Chunk(number, start, stop, text[start:stop], self._context(page, begin))
            self._track_headings(number, page, begin, end)
            begin = _next_start(page, begin, end)

    def _context(self, page: _Page, begin: int) -> str:
        heading = page.headings[begin]
        headings = [text for level, (_, text) in sorted(self._headings.items()) if not heading or level < heading[0]]
        headings = [
            _truncate(text, MAX_HEADING_TOKENS) for text in headings if text.lower() not in self._subject.lower()
        ]
        parts = [self._subject, *headings, _table_header(page, begin)]
        return _truncate("\n".join(dict.fromkeys(part for part in parts if part)), MAX_CONTEXT_TOKENS)

    def _track_headings(self, number: int, page: _Page, begin: int, end: int) -> None:
        for heading in page.headings[begin:end]:
            if heading:
                level, text = heading
                higher = {n: entry for n, entry in self._headings.items() if n < level}
                self._headings = higher | {level: (number, text)}


def _chunk_end(page: _Page, begin: int) -> int:
    """Return the end of the chunk that starts at a line: at a heading if it is half full, otherwise when it is full."""
    for number in range(begin, len(page)):
        if number > begin and page.tokens(begin, number + 1) > MAX_CHUNK_TOKENS:
            is_tail = page.tokens(number, len(page)) <= MAX_TAIL_TOKENS
            return len(page) if is_tail else _start_of_table(page, begin, number)
        if page.tokens(begin, number) > MAX_CHUNK_TOKENS // 2 and page.headings[number]:
            return number
    return len(page)


def _start_of_table(page: _Page, begin: int, end: int) -> int:
    """Return the start of the table that `end` would split, if the table fits into the next chunk; otherwise `end`."""
    if not page.rows[end]:
        return end
    top = end
    while top > begin and (page.rows[top - 1] or line_classifier.is_table_header(page.lines[top - 1].text)):
        top -= 1
    if top > begin and _is_table_label(page.lines[top - 1]):
        top -= 1
    fits = (
        page.tokens(begin, top) >= MAX_CHUNK_TOKENS // 3
        and page.tokens(top, page.end_of_table(end)) <= MAX_CHUNK_TOKENS
    )
    return top if fits else end


def _next_start(page: _Page, begin: int, end: int) -> int:
    """Return the start of the next chunk: within a section it overlaps by some lines, if they are short."""
    if end == len(page) or page.headings[end]:
        return end
    overlap_start = max(end - OVERLAP_LINES, begin + 1)
    if page.rows[end] and not page.rows[end - 1] and not _is_table_label(page.lines[end - 1]):
        return end  # a new table
    return overlap_start if page.tokens(overlap_start, end) <= MAX_CHUNK_TOKENS // 4 else end


def _is_table_label(line: _Line) -> bool:
    return line.text.rstrip().endswith(":")


def _table_header(page: _Page, begin: int) -> str:
    """Return the column headers of the table in which a chunk starts; empty if it does not start in a table."""
    if not page.rows[begin]:
        return ""
    above = [line.text.strip() for line in page.lines[max(0, begin - MAX_ROWS_ABOVE) : begin]]
    for number in range(len(above) - 1, -1, -1):
        if line_classifier.is_delimiter_row(above[number]) and number:
            return above[number - 1]
        if line_classifier.is_table_header(above[number]):
            nearest_first = reversed(above[max(0, number + 1 - MAX_HEADER_LINES) : number + 1])
            headers = list(takewhile(line_classifier.is_table_header, nearest_first))
            return " ".join(reversed(headers))
        if (
            not line_classifier.is_table_row(above[number])
            and len(above[number]) > line_classifier.MAX_HEADING_CHARACTERS
        ):
            return ""  # running text: the table starts below it
    return ""


def _lines(text: str) -> Iterator[_Line]:
    offset = 0
    for line in text.split("\n"):
        if line.strip():
            start = offset + len(line) - len(line.lstrip())
            yield from _split_line(text, start, offset + len(line.rstrip()))
        offset += len(line) + 1


def _split_line(text: str, start: int, end: int) -> Iterator[_Line]:
    """Yield a line; split a line that exceeds a chunk into sentences, and a sentence into words."""
    end = start + len(text[start:end].rstrip())
    count = token_estimate.estimate(text[start:end])
    if count <= MAX_CHUNK_TOKENS:
        yield _Line(start, end, text[start:end], count)
        return
    if not LETTER_OR_DIGIT.search(text, start, end):
        return
    for pattern in (SENTENCE_END, SPACE):
        boundaries = [start + match.end() for match in pattern.finditer(text[start:end])]
        if boundaries:
            for span_start, span_end in _group_spans(text, [start, *boundaries, end]):
                yield from _split_line(text, span_start, span_end)
            return
    for span_start, span_end in token_estimate.split(text[start:end], MAX_CHUNK_TOKENS):  # a word that exceeds a chunk
        word = text[start + span_start : start + span_end]
        yield _Line(start + span_start, start + span_end, word, token_estimate.estimate(word))


def _group_spans(text: str, boundaries: list[int]) -> Iterator[tuple[int, int]]:
    """Yield groups of adjacent spans, each of at most a third of a chunk, or one longer span."""
    group_start = boundaries[0]
    total = 0
    for start, end in zip(boundaries, boundaries[1:], strict=False):
        count = token_estimate.estimate(text[start:end])
        if total and total + count > MAX_CHUNK_TOKENS // 3:
            yield group_start, start
            group_start = start
            total = 0
        total += count
    yield group_start, boundaries[-1]


def _truncate(text: str, max_tokens: int) -> str:
    while token_estimate.estimate(text) > max_tokens:
        text = text[: int(len(text) * 0.9)].rpartition(" ")[0]
    return text
