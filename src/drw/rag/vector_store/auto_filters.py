"""Automatic filters: narrow a search to the company, document type or period that the question names.

A filter matches documents with one of its values, and documents without the key. Its values come from documents that
match the filters before it, so that the result is never empty.
"""

from __future__ import annotations

from drw.rag.vector_store.metadata import PERIOD
from drw.rag.vector_store.ports import Filters, Snapshot
from drw.rag.vector_store.question import Question


async def chosen(snapshot: Snapshot, question: Question) -> Filters:
    """Return the values of each filter that a question implies, by key."""
    filters: dict[str, list[str]] = {}
    for key, terms in question.named.items():
        if values := await snapshot.values(key, terms, filters):
            filters[key] = values
    if question.newest and PERIOD not in filters and (values := await snapshot.newest(filters)):
        filters[PERIOD] = values
    return filters
