"""Analysis of a document when it is written: the terms of its chunks, and its metadata."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from drw.api.rag.v1.vector_store_pb2 import Chunk, Document
from drw.rag.vector_store import metadata
from drw.rag.vector_store.ports import DocumentAnalysis, DocumentMetadata
from drw.rag.vector_store.terms import terms


def analyse(document: Document, chunks: Sequence[Chunk]) -> DocumentAnalysis:
    """Return the term counts and the metadata of a document."""
    counts = [Counter(terms(f"{chunk.context}\n{chunk.text}")) for chunk in chunks]
    return DocumentAnalysis(counts, document_metadata(document, chunks))


def document_metadata(document: Document, chunks: Sequence[Chunk]) -> DocumentMetadata:
    """Return the metadata of a document, which depends on its attributes, with the terms that name it."""
    values = metadata.extract(document, chunks)
    return DocumentMetadata(list(dict.fromkeys(metadata.name_terms(values))), values)
