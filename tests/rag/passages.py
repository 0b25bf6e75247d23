"""Small, deterministic documents and vectors for tests of the vector store and of retrieval."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from drw.api.rag.v1.embedding_pb2 import Vector
from drw.api.rag.v1.vector_store_pb2 import Chunk, Document, PutDocumentRequest
from drw.kernel.attributes import to_values

DIMENSIONS = 384


def vector(text: str) -> Vector:
    """Return a unit vector; texts with common words have similar vectors."""
    values = [0.0] * DIMENSIONS
    for word in text.lower().split():
        values[int(hashlib.sha256(word.encode()).hexdigest(), 16) % DIMENSIONS] += 1.0
    length = sum(v * v for v in values) ** 0.5 or 1.0
    return Vector(values=[v / length for v in values])


def put(
    collection: str,
    document: str,
    texts: Sequence[str],
    *,
    title: str = "",
    context: str = "",
    walls: Sequence[str] = (),
    **attributes: str | float | bool,
) -> PutDocumentRequest:
    """Return the request that writes a document with one chunk a page."""
    chunks = [
        Chunk(number=i, page=i + 1, start=0, end=len(text), text=text, context=context, vector=vector(text))
        for i, text in enumerate(texts)
    ]
    about = Document(id=document, title=title or f"{document}.txt", pages=len(texts), walls=walls)
    for name, value in to_values(attributes).items():
        about.attributes[name].CopyFrom(value)
    return PutDocumentRequest(collection=collection, document=about, chunks=chunks)
