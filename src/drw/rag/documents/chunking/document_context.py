"""Subject of a document (company, form, period, title), derived from its file name and first page.

It is part of the context of every chunk: a search for the quarter of a company finds "Total net sales 81,797 82,959"
only with "Apple Inc. · Form 10-Q · period ended July 1, 2023" beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePath

from drw.rag.documents.chunking import line_classifier, token_estimate

MAX_TOKENS = 36
MAX_FRONT_LINES = 60
MAX_TITLE_LINES = 12
MAX_TITLE_CHARACTERS = 250
"""The titles of papers are longer than headings."""
ORGANISATION = re.compile(
    r"\b(?:inc|corp|corporation|incorporated|ltd|limited|llc|llp|plc|ag|gmbh|sarl|s\.a|n\.v|company|bank|group|fund"
    r"|partners|trust|holdings)\b\.?,?$",
    re.IGNORECASE,
)
FORM = re.compile(r"^(?:annual |quarterly |current )?(?:form|report|schedule|prospectus)\s+[\w-]+$", re.IGNORECASE)
MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
DAY = rf"(?:{MONTH}\s+\d{{1,2}}\s*,?\s+(?:19|20)\d\d|\d{{1,2}}\.?\s+{MONTH},?\s+(?:19|20)\d\d|(?:19|20)\d\d-\d\d-\d\d)"
PERIOD = re.compile(
    r"\b((?:(?:quarter|year|month|week|period)[a-z]*\s+)?(?:ended|ending|as of|dated|effective))"
    rf"\s*:?\s+({DAY})",
    re.IGNORECASE,
)
DATE = re.compile(rf"\b{DAY}\b", re.IGNORECASE)
BOILERPLATE = re.compile(
    r"table of contents|united states|exact name|commission|^page\b|washington|^\W*$", re.IGNORECASE
)


def subject(file_name: str, first_page: str) -> str:
    """Return the subject of a document, at most `MAX_TOKENS` tokens, without repeated parts."""
    front = [" ".join(line.split()) for line in first_page.splitlines() if line.strip()][:MAX_FRONT_LINES]
    front = [line for line in front if not line.startswith("|")]
    file_title = " ".join(re.split(r"[\s_.\-]+", PurePath(file_name).stem)).strip()
    parts: list[str] = []
    for part in (*_facts(front), file_title):
        joined = " · ".join(parts).lower()
        if part and part.lower() not in joined and token_estimate.estimate(f"{joined} {part}") <= MAX_TOKENS:
            parts.append(part)
    return " · ".join(parts)


def _facts(front: list[str]) -> Iterator[str]:
    organisation = next((line for line in front if _is_organisation(line)), "")
    form = next((line.title() for line in front if FORM.match(line)), "")
    if not (organisation or form):
        yield _title(front)
    yield organisation.title() if organisation.isupper() and len(organisation) > 5 else organisation
    yield form
    yield _period(" ".join(front))


def _title(front: list[str]) -> str:
    headings = (
        heading[1]
        for line in front[:MAX_TITLE_LINES]
        if (heading := line_classifier.heading(line)) and not BOILERPLATE.search(line)
    )
    plain = (line for line in front[:MAX_TITLE_LINES] if len(line) <= MAX_TITLE_CHARACTERS)
    return next(headings, "") or next((line for line in plain if not BOILERPLATE.search(line)), "")


def _is_organisation(line: str) -> bool:
    words = line.split()
    return (
        len(words) <= 7
        and line[0].isupper()
        and "|" not in line
        and bool(ORGANISATION.search(line))
        and not BOILERPLATE.search(line)
        and not line_classifier.NUMBERED.match(line)
    )


def _period(front: str) -> str:
    if match := PERIOD.search(front):
        return f"{match[1].lower()} {match[2]}"
    return match[0] if (match := DATE.search(front)) else ""
