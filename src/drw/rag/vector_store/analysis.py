"""Reads a document once, when it is written: the terms of its chunks, what it is about, and its date."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date

from drw.api.rag.v1.vector_store_pb2 import Chunk, Document
from drw.kernel.attributes import from_values
from drw.rag.vector_store.periods import dates, last_day, quarters, stated_date
from drw.rag.vector_store.ports import About, Analysed
from drw.rag.vector_store.terms import terms

FIRST_PAGE_CHARACTERS = 4000

WEIGHT_OF_TITLE = 1.0
WEIGHT_OF_CONTEXT = 0.8
"""How much it says of a document that a word stands there. The first page counts for its date only: it has
too many other words, and whatever makes the context has picked those that matter."""


def analyse(document: Document, chunks: Sequence[Chunk]) -> Analysed:
    """Return what the index keeps of a document beside its text and vectors."""
    return Analysed(
        counts=[Counter(terms(f"{chunk.context}\n{chunk.text}")) for chunk in chunks],
        subject=_subject(document, chunks),
        dated=_dated(document, chunks),
    )


def about(document: Document, chunks: Sequence[Chunk]) -> About:
    """Return the part of it that follows from the attributes too: all that changes where those do."""
    return About(_subject(document, chunks), _dated(document, chunks))


def _subject(document: Document, chunks: Sequence[Chunk]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for weight, found in (
        (WEIGHT_OF_CONTEXT, _shared_context(chunks)),
        (WEIGHT_OF_TITLE, terms(f"{_spaced(document.title)}\n{_values(document)}")),
    ):
        weights |= dict.fromkeys(found, weight)
    return weights


def _shared_context(chunks: Sequence[Chunk]) -> Iterable[str]:
    """Return the terms in the context of at least half of the chunks: those say what the whole is about."""
    seen = Counter(term for chunk in chunks for term in set(terms(chunk.context)))
    return [term for term, count in seen.items() if 2 * count >= len(chunks)]


def _dated(document: Document, chunks: Sequence[Chunk]) -> date | None:
    """Return the date that tells a document from its older and newer ones, from where it is most surely said."""
    context = "\n".join(dict.fromkeys(chunk.context for chunk in chunks[:20]))
    front = _first_page(chunks)
    for text in (_values(document), context, front):
        if found := stated_date(text):
            return found
    for text in (_values(document), _spaced(document.title), context):
        if days := dates(text):
            return days[0]
        if named := quarters(text):
            return last_day(*named[0])
    return next(iter(dates(front)), None)


def _first_page(chunks: Sequence[Chunk]) -> str:
    if not chunks:
        return ""
    first = min(chunk.page for chunk in chunks)
    return "\n".join(chunk.text for chunk in chunks if chunk.page == first)[:FIRST_PAGE_CHARACTERS]


def _values(document: Document) -> str:
    values = from_values(document.attributes)
    return "\n".join(str(values[key]) for key in sorted(values))


def _spaced(title: str) -> str:
    return title.replace("_", " ")
