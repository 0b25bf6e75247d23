"""Subject of a document (company, form, period, title), derived from its file name and first page.

It is part of the context of every chunk: a search for the quarter of a company finds "Total net sales 81,797 82,959"
only with "Apple Inc. · Form 10-Q · period ended July 1, 2023" beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import PurePath

from drw.rag.documents.chunking import line_classifier, token_estimate

MAX_TOKENS = 36
FRONT_LINES = 60
TITLE_LINES = 12
MAX_TITLE_CHARACTERS = 250
"""The titles of papers are longer than headings."""
ORGANISATION = re.compile(
    r"\b(?:inc|corp|corporation|incorporated|ltd|limited|llc|llp|plc|ag|gmbh|sarl|s\.a|n\.v|company|bank|group|fund"
    r"|partners|trust|holdings)\b\.?,?$",
    re.IGNORECASE,
)
KIND = re.compile(r"^(?:annual |quarterly |current )?(?:form|report|schedule|prospectus)\s+[\w-]+$", re.IGNORECASE)
MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
DAY = rf"(?:{MONTH}\s+\d{{1,2}}\s*,?\s+(?:19|20)\d\d|\d{{1,2}}\.?\s+{MONTH},?\s+(?:19|20)\d\d|(?:19|20)\d\d-\d\d-\d\d)"
PERIOD = re.compile(
    r"\b((?:(?:quarter|year|month|week|period)[a-z]*\s+)?(?:ended|ending|as of|dated|effective))"
    rf"\s*:?\s+({DAY})",
    re.IGNORECASE,
)
DATE = re.compile(rf"\b{DAY}\b", re.IGNORECASE)
BORING = re.compile(r"table of contents|united states|exact name|commission|^page\b|washington|^\W*$", re.IGNORECASE)


def subject(file_name: str, first_page: str) -> str:
    """Return the subject of a document in a few words, without repetition."""
    front = [" ".join(line.split()) for line in first_page.splitlines() if line.strip()][:FRONT_LINES]
    front = [line for line in front if not line.startswith("|")]
    parts: list[str] = []
    for part in (*_facts(front), _spaced(file_name)):
        so_far = " · ".join(parts).lower()
        if part and part.lower() not in so_far and token_estimate.estimate(f"{so_far} {part}") <= MAX_TOKENS:
            parts.append(part)
    return " · ".join(parts)


def _facts(front: list[str]) -> Iterator[str]:
    organisation = next((line for line in front if _is_organisation(line)), "")
    kind = next((line.title() for line in front if KIND.match(line)), "")
    if not (organisation or kind):
        yield _title(front)
    yield _cased(organisation)
    yield kind
    yield _period(" ".join(front))


def _title(front: list[str]) -> str:
    headings = (
        heading[1]
        for line in front[:TITLE_LINES]
        if (heading := line_classifier.heading(line)) and not BORING.search(line)
    )
    plain = (line for line in front[:TITLE_LINES] if len(line) <= MAX_TITLE_CHARACTERS)
    return next(headings, "") or next((line for line in plain if not BORING.search(line)), "")


def _is_organisation(line: str) -> bool:
    words = line.split()
    return (
        len(words) <= 7
        and line[0].isupper()
        and "|" not in line
        and bool(ORGANISATION.search(line))
        and not BORING.search(line)
        and not line_classifier.NUMBERED.match(line)
    )


def _cased(name: str) -> str:
    return name.title() if name.isupper() and len(name) > 5 else name


def _period(front: str) -> str:
    if match := PERIOD.search(front):
        return f"{match[1].lower()} {match[2]}"
    return next((match[0] for match in islice(DATE.finditer(front), 1)), "")


def _spaced(file_name: str) -> str:
    return " ".join(re.split(r"[\s_.\-]+", PurePath(file_name).stem)).strip()
