"""Normalises pages: bounded length, no characters that cannot be stored, no wide gaps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

LONGEST = 100_000
"""Characters."""


WIDE_GAP = re.compile(r"[^\S\n]{9,}")
TALL_GAP = re.compile(r"\n(?:[^\S\n]*\n){3,}")


def tidied(page: str) -> str:
    """Return a page without what PostgreSQL and JSON cannot hold, and with gaps of at most 8 spaces and 2 lines."""
    text = page.replace("\0", "").encode("utf-8", "replace").decode()
    return TALL_GAP.sub("\n\n\n", WIDE_GAP.sub(" " * 8, text))


def parted(pages: Iterable[str]) -> Iterator[str]:
    """Yield the pages; one that is too long becomes several, parted at the ends of lines where it has any."""
    for page in pages:
        at = 0
        while len(page) - at > LONGEST:
            end = page.rfind("\n", at, at + LONGEST) + 1
            end = end if end > at else at + LONGEST
            yield page[at:end]
            at = end
        yield page[at:]
