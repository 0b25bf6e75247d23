"""Analysis of a document when it is written: the terms of its chunks, and its metadata."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from drw.api.rag.v1.vector_store_pb2 import Chunk, Document
from drw.rag.vector_store import metadata
from drw.rag.vector_store.ports import AnalysedText, DocumentMetadata
from drw.rag.vector_store.terms import terms


def analyse(document: Document, chunks: Sequence[Chunk]) -> AnalysedText:
    """Return what the index stores of a document beside its text and vectors."""
    counts = [Counter(terms(f"{chunk.context}\n{chunk.text}")) for chunk in chunks]
    return AnalysedText(counts, about(document, chunks))


def about(document: Document, chunks: Sequence[Chunk]) -> DocumentMetadata:
    """Return the part of it that follows from the attributes too: all that changes where those do."""
    values = metadata.extracted(document, chunks)
    return DocumentMetadata(list(dict.fromkeys(metadata.names(values))), values)
