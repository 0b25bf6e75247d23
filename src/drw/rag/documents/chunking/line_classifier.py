"""Line classifier: detects headings, table rows and table headers by the format of a line."""

from __future__ import annotations

import re
from functools import lru_cache

MARKDOWN_HEADING = re.compile(r"(#{1,6})\s+(\S.*)$")
MARKDOWN_DELIMITER_ROW = re.compile(r"(?=.*---)[\s:|-]*$")
NUMBERED = re.compile(r"^(?:item|note|part|section|article|chapter|appendix|annex)\s+[\dIVX]+[A-Z]?\b", re.IGNORECASE)
AMOUNT_AT_END = re.compile(r"(?:^|\s)[$€£(–—-]*(?:\d[\d,]*(?:\.\d+)?)\)?\s?%?\)?$|\s[–—-]$")
TIME_WORDS = re.compile(
    r"\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?\s*\d{0,2},?|\b(?:19|20)\d\d\b|\b[qh][1-4]\b"
    r"|\b(?:three|six|nine|twelve|\d+)\s+(?:months|weeks)\b"
    r"|\b(?:quarter|year|period|month|week)s?\b|\bended\b|\bas of\b",
    re.IGNORECASE,
)
STYLE_LEVEL = 7
"""The level of a heading that is detected only by its capital letters."""
MAX_LINE_CHARACTERS = 2000
"""A longer line is running text; no pattern is matched against it."""
MAX_HEADING_WORDS = 14
MAX_HEADING_CHARACTERS = 100
NAVIGATION = re.compile(r"table of contents|contents|index", re.IGNORECASE)
SYMBOLS = re.compile(r"[^\w\s.,;:'’\"“”()&/+–—-]")
SMALL_WORDS = re.compile("a|an|and|as|at|by|for|from|in|into|its|of|on|or|our|per|the|to|vs|with", re.IGNORECASE)


@lru_cache(maxsize=1 << 12)
def heading(line: str) -> tuple[int, str] | None:
    """Return the level (1 is the highest) and the text of a heading; None if the line is not a heading."""
    if len(line) > MAX_LINE_CHARACTERS:
        return None
    line = line.strip()
    if match := MARKDOWN_HEADING.match(line):
        return len(match[1]), match[2].rstrip("#").rstrip() or match[2]
    words = line.split()
    if not (1 <= len(words) <= MAX_HEADING_WORDS and len(line) <= MAX_HEADING_CHARACTERS):
        return None
    if NAVIGATION.fullmatch(line) or SYMBOLS.search(line):
        return None
    if NUMBERED.match(line) and line[-1] not in ",;":
        return STYLE_LEVEL - 1, line
    return (STYLE_LEVEL, line) if _is_title_case(line, words) else None


@lru_cache(maxsize=1 << 12)
def is_table_row(line: str) -> bool:
    """Return whether a line is a table row: a row in Markdown, or text that ends in an amount."""
    line = line.strip()
    if len(line) > MAX_LINE_CHARACTERS:
        return line.startswith("|")
    return line.startswith("|") or bool(AMOUNT_AT_END.search(line) and not is_table_header(line))


def is_table_header(line: str) -> bool:
    """Return whether a line is a header of table columns: it has periods or dates, and no amounts."""
    if len(line) > MAX_HEADING_CHARACTERS or not TIME_WORDS.search(line):
        return False
    remainder = TIME_WORDS.sub(" ", line)
    return not re.search(r"\d", remainder) and len(remainder.split()) <= 6


def is_delimiter_row(line: str) -> bool:
    """Return whether a line is the delimiter row of a Markdown table."""
    return len(line) <= MAX_LINE_CHARACTERS and bool(MARKDOWN_DELIMITER_ROW.match(line.strip()))


def _is_title_case(line: str, words: list[str]) -> bool:
    if (
        AMOUNT_AT_END.search(line)
        or line[-1] in ".,;:"
        or not line[0].isalpha()
        or sum(c.isdigit() for c in line) > 4
        or "|" in line
    ):
        return False
    if is_table_header(line):
        return False
    content_words = [w for w in words if not SMALL_WORDS.fullmatch(w) and w[0].isalpha()]
    return len(words) >= 2 and bool(content_words) and all(word[0].isupper() for word in content_words)
