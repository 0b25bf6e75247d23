"""Metadata extraction: company, ticker, document type and period of a document, or of a question that names them.

Metadata comes from the first line of the chunks' context, the title, and the exchange listing on the first page.
Attributes of the same names override it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from drw.api.rag.v1.vector_store_pb2 import Chunk, Document
from drw.kernel.attributes import from_values
from drw.rag.vector_store.periods import MONTH_OF_YEAR, dates, month, quarters
from drw.rag.vector_store.terms import STOP_WORDS, WORD

COMPANY = "company"
TICKER = "ticker"
TYPE = "document_type"
PERIOD = "period"
QUARTER = "quarter"
KEYS = (COMPANY, TICKER, TYPE, PERIOD, QUARTER)

FRONT_CHARACTERS = 6000
ORGANISATION = re.compile(
    r"\b(?:inc|corp|corporation|incorporated|ltd|limited|llc|llp|plc|ag|gmbh|sarl|s\.a|n\.v|company|bank|group|fund"
    r"|partners|trust|holdings)\b\.?,?$",
    re.IGNORECASE,
)
LEGAL_FORMS = frozenset(
    WORD.findall(
        "inc corp corporation incorporated ltd limited llc llp plc ag gmbh sarl sa nv s a n v co company com group "
        "holding holdings"
    )
)
FORM = re.compile(r"(?:annual |quarterly |current )?(?:form|schedule)\s+(\w+-\w+|\d+\w)", re.IGNORECASE)
PERIOD_END = re.compile(r"\b(?:ended|ending)\b", re.IGNORECASE)
EXCHANGE_LISTINGS = (
    re.compile(r"\((?:NYSE|NASDAQ|Nasdaq)\s*:\s*([A-Z]{1,5})\)"),
    re.compile(r"\b([A-Z]{1,5})\s+(?:The\s+)?(?:Nasdaq|NASDAQ|NYSE|New York Stock Exchange)\b"),
)
UPPER_CASE_WORD = re.compile(r"\b[A-Z]{2,5}\b")
NOT_TICKERS = frozenset(["ANNUAL", "DRAFT", "FINAL", "FORM", "FY", "PDF", "REPORT", "SEC", "THE"])

FORM_IN_QUESTION = re.compile(r"\b(\d{1,2})-?([KQF])(?:/A)?s?\b")
REPORTS = {"annual report": ("10-k", "20-f"), "quarterly report": ("10-q",)}
MAX_NAME_WORDS = 5
MAX_NAMES = 512


def extract(document: Document, chunks: Sequence[Chunk]) -> dict[str, str]:
    """Return the metadata of a document, from its attributes and its text."""
    attributes = from_values(document.attributes)
    overrides = {key: value for key in KEYS if (value := str(attributes.get(key, "")).strip())}
    return _from_text(document, chunks) | overrides


def name_terms(metadata: Mapping[str, str]) -> Iterator[str]:
    """Yield the terms by which a question can name a document, each as `key:term`."""
    if name := company_name(metadata.get(COMPANY, "")):
        yield f"{COMPANY}:{name}"
    if ticker := metadata.get(TICKER):
        yield f"{COMPANY}:${ticker.upper()}"
    if form := metadata.get(TYPE):
        yield f"{TYPE}:{form.lower()}"
    for text in (metadata.get(PERIOD, ""), metadata.get(QUARTER, "")):
        for day in dates(text):
            yield f"{PERIOD}:{day.isoformat()}"
            yield f"{PERIOD}:{day:%Y-%m}"
        for year, number in quarters(text):
            yield f"{PERIOD}:{year}q{number}"


def question_terms(text: str) -> dict[str, tuple[str, ...]]:
    """Return the terms by which a question may name documents, by key, the most specific key first."""
    terms_by_key = {COMPANY: _companies(text), TYPE: _types(text), PERIOD: _periods(text)}
    return {
        key: terms for key, each in terms_by_key.items() if (terms := tuple(dict.fromkeys(islice(each, MAX_NAMES))))
    }


def company_name(name: str) -> str:
    """Return the normalised name of a company: lower case, without "The" and the legal form."""
    words = WORD.findall(name.lower())
    while words and words[-1] in LEGAL_FORMS:
        words.pop()
    if words[:1] == ["the"]:
        words = words[1:]
    return "" if all(word in STOP_WORDS for word in words) else " ".join(words[:MAX_NAME_WORDS])


def _from_text(document: Document, chunks: Sequence[Chunk]) -> dict[str, str]:
    title = document.title.replace("_", " ")
    parts = _common_heading(chunks).split(" · ")
    company = next((part for part in parts if ORGANISATION.search(part)), "")
    form = next((match[1].upper() for part in parts if (match := FORM.fullmatch(part))), "")
    if not (company or form):
        return {}  # a memo or a paper: keyword search finds it by its title
    days = (day for part in parts if PERIOD_END.search(part) for day in dates(part))
    quarter = next((f"{year} Q{number}" for year, number in quarters(title)), "")
    ticker = _ticker(chunks, title if form else "")
    period = next((day.isoformat() for day in days), quarter)
    values = {COMPANY: company or ticker, TICKER: ticker, TYPE: form, PERIOD: period, QUARTER: quarter}
    return {key: value for key, value in values.items() if value}


def _common_heading(chunks: Sequence[Chunk]) -> str:
    """Return the first line of the context that at least half of the chunks have."""
    headings = Counter(chunk.context.partition("\n")[0] for chunk in chunks)
    line, count = headings.most_common(1)[0] if headings else ("", 0)
    return line if 2 * count >= len(chunks) else ""


def _ticker(chunks: Sequence[Chunk], title: str) -> str:
    first = min((chunk.page for chunk in chunks), default=1)
    front = " ".join("\n".join(c.text for c in chunks if c.page == first)[:FRONT_CHARACTERS].split())
    for pattern in EXCHANGE_LISTINGS:
        if match := pattern.search(front):
            return match[1]
    candidates = (
        word for word in UPPER_CASE_WORD.findall(title.rpartition(".")[0] or title) if word not in NOT_TICKERS
    )
    return next(candidates, "")


def _companies(text: str) -> Iterator[str]:
    """Yield runs of words that begin and end with a capital; every run if the question has no capitals."""
    words = [match[0] for match in WORD.finditer(text)]
    is_lower = text[1:] == text[1:].lower()
    is_name_boundary = [is_lower or word != word.lower() or word[0].isdigit() for word in words]
    for begin in (n for n, is_boundary in enumerate(is_name_boundary) if is_boundary):
        for end in range(begin, min(begin + MAX_NAME_WORDS, len(words))):
            if is_name_boundary[end]:
                yield f"{COMPANY}:{' '.join(words[begin : end + 1]).lower()}"
    if text != text.upper():
        yield from (f"{COMPANY}:${word}" for word in UPPER_CASE_WORD.findall(text))


def _types(text: str) -> Iterator[str]:
    for number, letter in FORM_IN_QUESTION.findall(text):
        yield f"{TYPE}:{number}-{letter.lower()}"
    for words, forms in REPORTS.items():
        if words in text.lower():
            yield from (f"{TYPE}:{form}" for form in forms)


def _periods(text: str) -> Iterator[str]:
    yield from (f"{PERIOD}:{day.isoformat()}" for day in dates(text))
    yield from (f"{PERIOD}:{match['year']}-{month(match['month']):02}" for match in MONTH_OF_YEAR.finditer(text))
    yield from (f"{PERIOD}:{year}q{number}" for year, number in quarters(text))
