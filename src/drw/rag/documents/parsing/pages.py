"""Normalisation of page text: bounded length, storable characters, short gaps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

MAX_PAGE_CHARACTERS = 100_000
"""Longer pages are split."""
WIDE_GAP = re.compile(r"[^\S\n]{9,}")
TALL_GAP = re.compile(r"\n(?:[^\S\n]*\n){3,}")


def normalize(page: str) -> str:
    """Remove characters that PostgreSQL or JSON cannot store, and shorten gaps to at most 8 spaces and 2 lines."""
    text = page.replace("\0", "").encode("utf-8", "replace").decode()
    return TALL_GAP.sub("\n\n\n", WIDE_GAP.sub(" " * 8, text))


def split_long(pages: Iterable[str]) -> Iterator[str]:
    """Yield the pages; split a page of more than `MAX_PAGE_CHARACTERS`, at a line end if possible."""
    for page in pages:
        start = 0
        while len(page) - start > MAX_PAGE_CHARACTERS:
            end = page.rfind("\n", start, start + MAX_PAGE_CHARACTERS) + 1
            end = end if end > start else start + MAX_PAGE_CHARACTERS
            yield page[start:end]
            start = end
        yield page[start:]
