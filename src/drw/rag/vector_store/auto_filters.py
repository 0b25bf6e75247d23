"""Automatic filters: narrow a search to the company, document type or period that the question names.

A filter matches documents with one of its values, and documents without the key. Its values are those of documents
that match the filters before it, so the result is never empty.
"""

from __future__ import annotations

from drw.rag.vector_store.metadata import PERIOD
from drw.rag.vector_store.ports import Filters, Snapshot
from drw.rag.vector_store.question import Question


async def inferred(snapshot: Snapshot, question: Question) -> Filters:
    """Return the values of each filter that a question implies, by key."""
    filters: dict[str, list[str]] = {}
    for key, terms in question.metadata_terms.items():
        if values := await snapshot.metadata_values(key, terms, filters):
            filters[key] = values
    if question.asks_for_newest and PERIOD not in filters and (values := await snapshot.newest_periods(filters)):
        filters[PERIOD] = values
    return filters
