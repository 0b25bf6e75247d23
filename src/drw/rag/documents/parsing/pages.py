"""Normalises pages: bounded length, no characters that cannot be stored, no wide gaps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

LONGEST = 100_000
"""Characters."""


WIDE_GAP = re.compile(r"[^\S\n]{9,}")
TALL_GAP = re.compile(r"\n(?:[^\S\n]*\n){3,}")


def tidied(page: str) -> str:
    """Remove characters that PostgreSQL or JSON cannot store, and shorten gaps to at most 8 spaces and 2 lines."""
    text = page.replace("\0", "").encode("utf-8", "replace").decode()
    return TALL_GAP.sub("\n\n\n", WIDE_GAP.sub(" " * 8, text))


def parted(pages: Iterable[str]) -> Iterator[str]:
    """Yield the pages; split those that are too long, at line ends if possible."""
    for page in pages:
        at = 0
        while len(page) - at > LONGEST:
            end = page.rfind("\n", at, at + LONGEST) + 1
            end = end if end > at else at + LONGEST
            yield page[at:end]
            at = end
        yield page[at:]
