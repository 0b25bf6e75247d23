"""Rows of a document (document, permissions, chunks, vectors, postings, subject), written and deleted together."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, LiteralString

import numpy as np
from psycopg.types.json import Jsonb

from drw.api.rag.v1.vector_store_pb2 import Chunk, Document
from drw.kernel.attributes import from_values, to_values
from drw.kernel.storage.audit import digest
from drw.kernel.storage.database import Connection
from drw.rag.vector_store import bm25
from drw.rag.vector_store.adapters.pgvector.collections import next_page_token, owner_parameters, page_start
from drw.rag.vector_store.ports import DocumentAnalysis, DocumentNotFound, Owner, Page

ADD = """
    insert into document
        (collection, id, title, content_hash, pages, chunks, bytes, terms, metadata, attributes, walls,
            attributes_version, fence)
    values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) returning *"""

COUNT = """
    insert into collection_total as t (collection, walls, documents, chunks, bytes, terms)
    values (%(collection)s, %(walls)s, %(documents)s, %(chunks)s, %(bytes)s, %(terms)s)
    on conflict (collection, walls) do update set documents = t.documents + excluded.documents,
        chunks = t.chunks + excluded.chunks, bytes = t.bytes + excluded.bytes, terms = t.terms + excluded.terms"""

LIST = """
    select * from visible(%(collection)s, %(desk)s, %(walls)s, null)
    where %(at)s::timestamptz is null or (indexed_at, id) > (%(at)s, %(id)s)
    order by indexed_at, id limit %(limit)s"""

DELETE = (
    "delete from document where collection = %(collection)s and id = %(id)s and inside(walls, %(walls)s) returning *"
)


async def write(
    connection: Connection,
    owner: Owner,
    collection: int,
    document: Document,
    chunks: Sequence[Chunk],
    analysis: DocumentAnalysis,
    fence: int,
) -> Document:
    """Insert a document."""
    size = sum(len(chunk.text.encode()) for chunk in chunks)
    terms = sum(sum(counts.values()) for counts in analysis.counts)
    values = (
        *(collection, document.id, document.title, document.content_hash, document.pages),
        *(len(chunks), size, terms, Jsonb(dict(analysis.metadata.metadata)), Jsonb(from_values(document.attributes))),
        *(list(document.walls), document.attributes_version, fence),
    )
    row = await (await connection.execute(ADD, values)).fetchone()
    assert row is not None
    key = row["key"]
    await connection.execute("insert into permission (document, principal) values (%s, %s)", (key, owner.desk))
    await _copy_chunks(connection, key, chunks)
    await _copy_vectors(connection, collection, key, chunks)
    postings = _postings(collection, key, chunks, analysis)
    await _copy(connection, "copy posting from stdin (format binary)", postings, ["int8", "text", "int8", "bytea"])
    await write_subject(connection, collection, key, analysis.metadata.subject)
    await count(connection, row, 1)
    return message(row)


async def write_subject(connection: Connection, collection: int, key: int, subject: Sequence[str]) -> None:
    """Write the terms by which a question can name a document."""
    await _copy(connection, "copy subject from stdin", ((collection, term, key) for term in subject))


async def replace(connection: Connection, collection: int, document: Document) -> None:
    """Delete the document with this id and these walls, if it exists, before another one is inserted."""
    query = "delete from document where collection = %s and id = %s and walls = %s returning *"
    rows = await connection.execute(query, (collection, document.id, list(document.walls)))
    for row in await rows.fetchall():
        await count(connection, row, -1)


async def delete(connection: Connection, owner: Owner, collection: int, document: str) -> int:
    """Delete a document that the caller may see, and return how many chunks it had.

    Raises:
        DocumentNotFound: there is none.
    """
    parameters = {**owner_parameters(owner), "collection": collection, "id": document}
    rows = await (await connection.execute(DELETE, parameters)).fetchall()
    if not rows:
        raise DocumentNotFound(f"there is no document {document!r} in the collection")
    for row in rows:
        await count(connection, row, -1)
    return sum(row["chunks"] for row in rows)


async def list_page(connection: Connection, owner: Owner, collection: int, page: Page) -> tuple[list[Document], str]:
    """Return a page of the visible documents, and the token of the next page."""
    parameters = {**owner_parameters(owner), **page_start(page), "collection": collection, "limit": page.size + 1}
    rows = await (await connection.execute(LIST, parameters)).fetchall()
    return [message(row) for row in rows[: page.size]], next_page_token(rows, page, "indexed_at")


async def _copy_chunks(connection: Connection, key: int, chunks: Sequence[Chunk]) -> None:
    rows = ((key, c.number, c.page, c.start, c.end, c.text, c.context, digest(c.text)) for c in chunks)
    await _copy(connection, "copy chunk from stdin", rows)


async def _copy_vectors(connection: Connection, collection: int, key: int, chunks: Sequence[Chunk]) -> None:
    rows = ((collection, key, c.number, _binary(c.vector.values)) for c in chunks if c.vector.values)
    types = ["int8", "int8", "int4", "bytea"]  # sent as the bytes that the vector's own binary form has
    await _copy(connection, "copy chunk_vector from stdin (format binary)", rows, types)


def _postings(
    collection: int, key: int, chunks: Sequence[Chunk], analysis: DocumentAnalysis
) -> Iterable[tuple[Any, ...]]:
    hits_by_term: dict[str, list[int]] = {}
    for chunk, counts in zip(chunks, analysis.counts, strict=True):
        length = sum(counts.values())
        for term, count in counts.items():
            hits_by_term.setdefault(term, []).extend((chunk.number, count, length))
    for term, hits in hits_by_term.items():
        yield collection, term, key, bm25.pack_hits(hits)


def _binary(values: Sequence[float]) -> bytes:
    """Return a vector in pgvector's binary format: dimensions, two unused bytes, the values."""
    return struct.pack(">HH", len(values), 0) + np.asarray(values, dtype=">f4").tobytes()


async def _copy(
    connection: Connection, statement: LiteralString, rows: Iterable[Sequence[Any]], types: Sequence[str] = ()
) -> None:
    """Copy rows into a table: as text or, with `types`, in binary."""
    async with connection.cursor().copy(statement) as copy:
        if types:
            copy.set_types(types)
        for row in rows:
            await copy.write_row(row)


async def count(connection: Connection, row: Mapping[str, Any], sign: int) -> None:
    """Add a document to the totals of its collection and walls, or subtract it."""
    changes = {name: sign * row[name] for name in ("chunks", "bytes", "terms")}
    await connection.execute(
        COUNT, {"collection": row["collection"], "walls": row["walls"], "documents": sign, **changes}
    )


def message(row: Mapping[str, Any]) -> Document:
    """Return a row as a message of the contract."""
    document = Document(
        id=row["id"],
        title=row["title"],
        content_hash=row["content_hash"],
        pages=row["pages"],
        chunks=row["chunks"],
        attributes=to_values(row["attributes"]),
        walls=row["walls"],
        attributes_version=row["attributes_version"],
        metadata=row["metadata"],
    )
    document.indexed_at.FromDatetime(row["indexed_at"])
    return document
