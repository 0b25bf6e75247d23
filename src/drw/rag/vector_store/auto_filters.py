"""Automatic filters: where a question names a company, document type or period that visible documents have.

A filter takes the documents that have one of its values, and those of which the key is not known. Values come from
documents that fit the filters before, so that no filter ever leaves nothing.
"""

from __future__ import annotations

from drw.rag.vector_store.metadata import PERIOD
from drw.rag.vector_store.ports import Filters, Snapshot
from drw.rag.vector_store.question import Question


async def chosen(snapshot: Snapshot, asked: Question) -> Filters:
    """Return the filters that a question asks for, the values of each by its key; empty where it names nothing."""
    filters: dict[str, list[str]] = {}
    for key, terms in asked.named.items():
        if values := await snapshot.values(key, terms, filters):
            filters[key] = values
    if asked.newest and PERIOD not in filters and (values := await snapshot.newest(filters)):
        filters[PERIOD] = values
    return filters
